"""Checks what a caller passed and brings it into one form per text; every message says what was expected.

Labels, thresholds and examples have files of their own.
"""

from __future__ import annotations

from typing import Any, Literal

from gliclass_fast.text.containers import as_list, per_text, plain_string, plain_strings, whole_number
from gliclass_fast.text.errors import WrongType, WrongValue

CLASSIFICATION_TYPES = {
    "single": "single-label",
    "single-label": "single-label",
    "single_label": "single-label",
    "multi": "multi-label",
    "multi-label": "multi-label",
    "multi_label": "multi-label",
}
OnTruncation = Literal["warn", "error", "ignore"]
ON_TRUNCATION = ("warn", "error", "ignore")


def check_texts(texts: Any, first: int = 0) -> list[str]:
    """Returns one or several texts as a list of strings; messages count them from `first`."""
    if isinstance(texts, str):
        texts = [texts]
    return plain_strings(as_list(texts, "texts", "a string or a list of strings,"), "texts", first)


def classification_types_per_text(value: Any, count: int, default: str) -> list[str]:
    values = per_text(
        value, count, "classification_type", lambda given: given is None or isinstance(given, (str, int))
    )
    return [default if each is None else check_classification_type(each) for each in values]


def check_classification_type(value: Any) -> str:
    name = CLASSIFICATION_TYPES.get(str.__str__(value).strip().lower()) if isinstance(value, str) else None
    if name is None:
        raise WrongValue(f"unsupported classification type {value!r}: choose 'single-label' or 'multi-label'")
    return name


def check_labels_per_pass(value: Any) -> int | Literal["auto"] | None:
    if value is None:
        return None
    if isinstance(value, str) and value == "auto":
        return "auto"
    try:
        return whole_number(value, "labels_per_pass")
    except (WrongType, WrongValue):
        raise WrongValue(
            f"labels_per_pass must be a positive number, 'auto' or None, got {value!r}"
        ) from None


def check_on_truncation(value: Any) -> OnTruncation:
    if value not in ON_TRUNCATION:
        raise WrongValue(f"on_truncation must be one of {', '.join(ON_TRUNCATION)}, got {value!r}")
    return value  # type: ignore[no-any-return]


def refuse_unsupported(**given: Any) -> None:
    """Raises WrongValue for what only other engines have, unless it is None for every text."""
    for name, value in given.items():
        absent = isinstance(value, (list, tuple)) and all(each is None for each in value)
        if value is not None and not absent:
            raise WrongValue(f"{name} is not supported yet: this engine runs text models without adapters")


def tasks_per_text(prompt: Any, count: int) -> list[str]:
    values = per_text(
        prompt, count, "prompt", lambda given: given is None or isinstance(given, (str, int, bytes))
    )
    return [
        "" if each is None else plain_string(each, f"prompt (for text {n})") for n, each in enumerate(values)
    ]
