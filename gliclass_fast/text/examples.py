"""Examples: few-shot and retrieved ones become plain dicts, and then parts of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gliclass_fast.text.arguments import as_list, per_text, plain_string
from gliclass_fast.text.errors import WrongType, WrongValue
from gliclass_fast.text.prompts import Markers

_SHOT_KEYS = ("text", "labels", "true_labels", "all_labels")  # the last is read of retrieved examples alone
ALLOWED_KEYS = {"examples": _SHOT_KEYS, "rac_examples": ("text", "true_labels", "all_labels")}
_WANTED = "a list of dicts, or one such list per text"


def examples_per_text(examples: Any, count: int, name: str = "examples") -> list[list[dict[str, Any]]]:
    """Returns the examples of every text, from a list of dicts for all, or one such list or None per text."""
    examples = as_list(examples, name, _WANTED)
    if not examples:
        return [[]] * count
    if any(isinstance(example, Mapping) for example in examples):
        return [_plain(examples, name, ALLOWED_KEYS[name])] * count
    own = per_text(examples, count, name, lambda _: False)
    return [
        [] if each is None else _plain(each, f"{name}[{index}]", ALLOWED_KEYS[name])
        for index, each in enumerate(own)
    ]


def _plain(examples: Any, name: str, allowed: tuple[str, ...]) -> list[dict[str, Any]]:
    kept = [each for each in as_list(examples, name, "a list of dicts") if each is not None]
    return [_example(example, f"{name}[{index}]", allowed) for index, example in enumerate(kept)]


def _example(example: Any, name: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Returns an example without what is None, which counts as absent."""
    if not isinstance(example, Mapping) or not isinstance(example.get("text"), str | None):
        raise WrongType(f"{name} must be a dict with a 'text' string and a list of 'labels'")
    for key in example:
        if key not in allowed:
            raise WrongValue(f"{name} has the unknown key {key!r}; allowed: {', '.join(allowed)}")
    plain: dict[str, Any] = {"text": plain_string(example.get("text") or "", f"{name}['text']")}
    for key in allowed[1:]:
        if (labels := example.get(key)) is not None:
            field = f"{name}[{key!r}]"
            labels = [labels] if isinstance(labels, str) else as_list(labels, field, "a list of strings")
            plain[key] = [plain_string(label, f"a label of {field}") for label in labels]
    return plain


def format_examples(examples: Sequence[Mapping[str, Any]], markers: Markers) -> str:
    """Joins the examples, each behind its marker, and puts one separator behind all of them.

    The labels of an example are a list of strings, or one that stands there as it is. None counts as absent,
    as a text too.
    """
    if not examples:
        return ""
    parts = []
    for example in examples:
        known = [own for key in ("labels", "true_labels") if (own := example.get(key)) is not None]
        labels = known[0] if known else []
        joined = ", ".join(labels) if isinstance(labels, list) else labels
        parts.append(f"{markers.example}{example.get('text') or ''} \nLabels:\n {joined}")
    return "".join(parts) + markers.sep


def format_retrieved(examples: Sequence[Mapping[str, Any]], markers: Markers) -> str:
    """Joins examples {"text", "true_labels", "all_labels"}, and leaves out those without a true label.

    False labels follow in the order of `all_labels` (the reference's order is that of a set and changes per
    process).
    """
    parts = []
    for example in examples:
        true = example.get("true_labels") or []
        if not true:
            continue
        false = [label for label in dict.fromkeys(example.get("all_labels") or []) if label not in true]
        marked = " ".join(f"<<TRUE_LABEL>> {label}" for label in true)
        unmarked = " ".join(f"<<FALSE_LABEL>> {label}" for label in false)
        parts.append(f"{markers.example} {example.get('text') or ''} {marked} {unmarked} <</EXAMPLE>>")
    return " " + " ".join(parts) if parts else ""
