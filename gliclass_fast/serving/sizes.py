"""The sizes of a request, found before anything is made of it: a small body can ask for very much.

Labels, prompts and examples that all texts share are read once per text, and the keys of nested labels once
per label below them. So sizes are counted as they will be, without making the strings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gliclass_fast.serving.errors import Invalid, TooLarge
from gliclass_fast.serving.settings import Limits

# {argument: whether a list that is not empty has an entry per text}; others are for all texts
_PER_TEXT: dict[str, Callable[[list[Any]], bool]] = {
    "labels": lambda given: isinstance(given[0], (list, dict)),
    "multi_label": lambda given: True,
    "examples": lambda given: not any(isinstance(each, Mapping) for each in given),
    "prompt": lambda given: True,
}
AROUND_EXAMPLE = 22  # characters that a prompt has for each: its marker, and "Labels:" with line ends


def checked_size(arguments: Mapping[str, Any], limits: Limits) -> int:
    """Returns about how many characters the prompts of a request have.

    arguments: those of `Service.answer`. Raises TooLarge or Invalid where there are more texts, labels or
    characters than `limits` allow.
    """
    texts = arguments["texts"]
    texts = [texts] if isinstance(texts, str) else texts
    if len(texts) > limits.texts:
        raise Invalid(f"the request has {len(texts)} texts; at most {limits.texts} are allowed")
    total = sum(map(len, texts))
    longest = max(map(len, texts), default=0)
    labels = arguments["labels"]
    own_labels = is_per_text("labels", labels)
    sizes = [label_sizes(each) for each in (labels if own_labels else [labels])]
    if (most := max(count for count, _ in sizes)) > limits.labels:
        raise Invalid(f"a text has {most} labels; at most {limits.labels} are allowed")
    # a label costs a little even where it has no characters
    parts = [([characters + count for count, characters in sizes], own_labels)]
    for name in ("prompt", "examples", "label_descriptions"):
        given: Any = arguments.get(name)
        own = is_per_text(name, given)
        parts.append(([characters_of(each) for each in (given if own else [given])], own))
    for found, own in parts:
        longest += max(found)
        total += sum(found) if own else found[0] * len(texts)
    if longest > limits.characters:
        raise TooLarge(
            f"a text has {longest} characters with its labels, prompt and examples; at most "
            f"{limits.characters} are allowed"
        )
    if total > limits.request_characters:
        raise TooLarge(
            f"the request has {total} characters, as every text is read with its labels, prompt and "
            f"examples; at most {limits.request_characters} are allowed: send fewer texts at a time"
        )
    return total


def is_per_text(name: str, given: Any) -> bool:
    """Tells whether an argument of a request is a list with an entry per text, and not for all texts."""
    return name in _PER_TEXT and isinstance(given, list) and bool(given) and _PER_TEXT[name](given)


def label_sizes(labels: Any) -> tuple[int, int]:
    """Returns the number of labels of a text, and the characters of their names as they are read."""
    count, characters, waiting = 0, 0, [(labels, 0)]
    while waiting:
        each, before = waiting.pop()
        if isinstance(each, dict):
            waiting += [(value, before + len(key) + 1) for key, value in each.items()]
        elif isinstance(each, list):
            waiting += [(value, before) for value in each]
        else:
            count += 1
            characters += before + (len(each) if isinstance(each, str) else 1)
    return count, characters


def characters_of(given: Any) -> int:
    """Returns the characters of all strings in lists and dicts of JSON, however deep; None has none.

    Everything in them costs at least one, and a dict as much as an example, even where it is empty.
    """
    found, waiting = 0, [] if given is None else [given]
    while waiting:
        each = waiting.pop()
        found += 1
        if isinstance(each, str):
            found += len(each)
        elif isinstance(each, dict):
            found += AROUND_EXAMPLE
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            waiting += each
    return found
