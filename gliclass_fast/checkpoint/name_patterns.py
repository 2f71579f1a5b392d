"""The patterns of an adapter, which choose a rank or an alpha by the end of a module's name.

A file chooses these regular expressions, and Python's matcher may go through every way in which one could
fit. So what is admitted has few ways: where r single characters are repeated, and groups and optional parts
combine in c ways, a name of n characters has at most c (n + r choose r) of them, as the lengths of what is
repeated sum up to n at most.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from math import comb

_MOST_REPEATS = 3
_MOST_STEPS = 2 * 10**8  # of all patterns and names, a few seconds in the worst case
_ESCAPED_OR_SET = re.compile(r"\\.|\[[^\]]*\]", re.DOTALL)


@lru_cache(maxsize=512)  # those of an adapter; those of `re` would also hold others
def compiled(pattern: str) -> re.Pattern[str]:
    """Returns what PEFT matches the names of modules with; raises re.error where that is no expression."""
    return re.compile(rf"(.*\.)?({pattern})$")


def refused_pattern(pattern: str) -> str | None:
    """Returns why a pattern is refused: it is none, or has parts whose steps nothing bounds."""
    try:
        re.compile(pattern)  # alone, as "a)|(b" is an expression only in the parentheses around it
        compiled(pattern)
    except (re.error, ValueError, RecursionError, OverflowError) as error:  # ValueError: of very many digits
        return f"is not a regular expression: {error}"
    plain = _plain(pattern)
    # in a comment, what looks like a set may hide repeats; and what looks ahead reads characters twice
    if re.search(r"\(\?(?!:)", plain):
        return "has a group that begins with '(?'; supported: (...) and (?:...)"
    if re.search(r"\)[*+{]", plain) or len(re.findall(r"[*+{]", plain)) > _MOST_REPEATS:
        return f"repeats a group, or repeats more than {_MOST_REPEATS} times"
    return None


def slowest(patterns: Iterable[str], names: Iterable[str]) -> str | None:
    """Returns the pattern with most steps where all that `refused_pattern` admits could take very long."""
    shapes = Counter((len(name), name.count(".")) for name in names)
    steps = {
        pattern: sum(count * _steps(pattern, *shape) for shape, count in shapes.items())
        for pattern in patterns
    }
    return max(steps, key=steps.__getitem__) if sum(steps.values()) > _MOST_STEPS else None


def _plain(pattern: str) -> str:
    """Returns a pattern with a letter for every escaped character and every set."""
    return _ESCAPED_OR_SET.sub("x", pattern)


def _steps(pattern: str, length: int, dots: int) -> int:
    """Returns a bound for the steps of the matcher on a name of so many characters with so many dots."""
    plain = _plain(pattern).replace("(?:", "(")
    repeats = len(re.findall(r"[*+{]", plain))
    # what has no width may come between any two characters
    without_width = sum(map(plain.count, "(^$")) + pattern.count("\\")
    starts = dots + 1
    ways = comb(length + repeats, repeats) * _combinations(plain)
    return length + starts * ways * (1 + without_width)


def _combinations(plain: str) -> int:
    """Returns in how many ways the alternatives and the optional parts of a pattern combine, at most."""
    found, branches = 1, [1]  # of the groups that are open, the pattern itself first
    for character in plain:
        if character == "(":
            branches.append(1)
        elif character == "|":
            branches[-1] += 1
        elif character == ")":
            found *= branches.pop()
        elif character == "?":
            found *= 2
    return found * branches[0]
