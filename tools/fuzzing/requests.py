"""Random requests: texts of every script, control characters, half characters, markers, very many labels.

A request holds arguments of one call of a pipeline. It is drawn from a `random.Random` alone, so a seed names
it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

MARKERS = (
    "<<LABEL>>", "<<SEP>>", "<<EXAMPLE>>", "a<<LABEL>>b", "<<SEP>>[SEP][PAD]", "[CLS]", "[UNK]", "[LAB]",
    "<<LABEL>><<SEP>>", "<<label>>", "<<SEP", "</s>", "<pad>",
)  # fmt: skip
# first and last character of blocks that differ in direction, width, combination and length in UTF-8
SCRIPTS = (
    (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF),
    (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x2000, 0x206F), (0x3040, 0x30FF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xFE00, 0xFE0F), (0xFFF0, 0xFFFF),
    (0x10000, 0x1007F), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0xE0000, 0xE007F), (0x10FFF0, 0x10FFFF),
)  # fmt: skip
CONTROL = "\0\a\b\t\n\v\f\r\x1b\x1c\x1f\x7f\x80\x85\x9f\u200b\u200d\u2028\u2029\u202e\ufeff"
WORDS = ("film", "music", "a", "the", "bank", "of", "rocket", "great", "1999", "don't", "x-y", "…", "ﬁ")
MOST_LABELS = 3000
_MANY_A_PASS = 100  # labels


def text(chance: Random) -> str:
    """Draws a text, mostly a short one; some are longer than the window of the pipelines."""
    kind = chance.random()
    if kind < 0.5:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, 12)))
    if kind < 0.7:
        return "".join(_letter(chance) for _ in range(chance.randint(1, 24)))
    if kind < 0.78:
        return "".join(chance.choices(CONTROL + "ab ", k=chance.randint(1, 12)))
    if kind < 0.88:
        return " ".join(chance.choices((*MARKERS, *WORDS), k=chance.randint(1, 5)))
    if kind < 0.93:
        return ""
    if kind < 0.94:
        return f"a{chr(chance.randint(0xD800, 0xDFFF))}b"  # half a character, which no encoding has
    if kind < 0.97:
        return "".join(chance.choices("ab ", k=chance.randint(300, 500)))
    return chance.choice(WORDS) * chance.randint(1, 40)


def _letter(chance: Random) -> str:
    letter = chr(chance.randint(*chance.choice(SCRIPTS)))
    return letter + "\u0301" if chance.random() < 0.05 else letter


def label(chance: Random) -> str:
    kind = chance.random()
    if kind < 0.7:
        return chance.choice(WORDS)
    if kind < 0.85:
        return "".join(_letter(chance) for _ in range(chance.randint(0, 6)))
    return chance.choice(MARKERS) if kind < 0.97 else text(chance)


def _list(chance: Random, draw: Callable[[Random], Any], least: int, most: int) -> list[Any]:
    return [draw(chance) for _ in range(chance.randint(least, most))]


def labels(chance: Random) -> Any:
    """Draws a list of labels, now and then of very many, or a dict of lists or of descriptions."""
    kind = chance.random()
    if kind < 0.8:
        return _list(chance, label, 1, 6)
    if kind < 0.86:
        return [str(number) for number in range(chance.randint(1, 40))]
    if kind < 0.87:
        return [str(number) for number in range(chance.randint(41, 300))]
    if kind < 0.94:
        return {label(chance): _list(chance, label, 1, 3) for _ in range(chance.randint(1, 3))}
    return {label(chance): label(chance) for _ in range(chance.randint(1, 3))}


def _shot(chance: Random) -> dict[str, Any]:
    return {"text": text(chance), "labels": _list(chance, label, 0, 2)}


def request(chance: Random) -> dict[str, Any]:
    """Draws the arguments of a call, with "texts" a list. Most of them are valid."""
    single = chance.random() < 0.4
    drawn: dict[str, Any] = {
        "texts": _list(chance, text, 1, 3), "labels": labels(chance),
        "classification_type": "single-label" if single else "multi-label",
    }  # fmt: skip
    if chance.random() < 0.001:
        drawn["labels"] = [str(number) for number in range(chance.randint(301, MOST_LABELS))]
        drawn["labels_per_pass"] = chance.choice([_MANY_A_PASS, "auto"])
    elif chance.random() < 0.3:
        drawn["labels_per_pass"] = chance.choice(["auto", 1, 3])
    if chance.random() < 0.25:
        drawn["prompt"] = label(chance) if chance.random() < 0.7 else text(chance)
    if chance.random() < 0.25:
        drawn["examples"] = _list(chance, _shot, 0, 2)
    if chance.random() < 0.05:
        drawn["label_permutations"] = chance.randint(1, 3)
    if chance.random() < 0.05:
        drawn["on_truncation"] = chance.choice(["warn", "error", "ignore"])
    if single and chance.random() < 0.1:
        drawn |= {"min_score": chance.random(), "none_label": label(chance)}
    if chance.random() < 0.01:
        drawn |= _mistake(chance)
    return drawn


def _mistake(chance: Random) -> dict[str, Any]:
    """Draws an argument that no call may have."""
    return chance.choice(
        [
            {"labels": []}, {"labels": None}, {"labels": [None]}, {"labels": 7}, {"labels_per_pass": 0},
            {"threshold": float("nan")}, {"threshold": 2}, {"classification_type": "both"}, {"prompt": 3},
            {"examples": [{"text": "a"}]}, {"examples": ["a"]}, {"label_permutations": 0}, {"min_score": -1},
            {"on_truncation": "stop"}, {"labels": {"a": {"b": []}}}, {"texts": [None]}, {"texts": ["a", 3]},
        ]
    )  # fmt: skip
