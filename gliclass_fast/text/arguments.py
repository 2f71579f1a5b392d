"""Checks what a caller passed and brings it into one form per text; every message says what was expected."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from gliclass_fast.text.prompts import flatten_labels

CLASSIFICATION_TYPES = {
    "single": "single-label",
    "single-label": "single-label",
    "single_label": "single-label",
    "multi": "multi-label",
    "multi-label": "multi-label",
    "multi_label": "multi-label",
}


def check_texts(texts: Any, first: int = 0) -> list[str]:
    """Returns one or several texts as a list of strings; messages count them from `first`."""
    if isinstance(texts, str):
        texts = [texts]
    texts = _as_list(texts)
    if isinstance(texts, Mapping) or not isinstance(texts, Sequence):
        raise TypeError(f"texts must be a string or a list of strings, got {type(texts).__name__}")
    for index, text in enumerate(texts, first):
        _check_string(text, f"texts[{index}]")
    return list(texts)


def _as_list(values: Any) -> Any:
    """Returns a column of a table or an array as a list, and other values as they are."""
    return values.tolist() if hasattr(values, "tolist") else values


def _check_string(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid text: {error.reason} at position {error.start}") from None


def labels_per_text(labels: Any, count: int, separator: str) -> tuple[list[tuple[str, ...]], list[Any]]:
    """Returns the flat labels of every text, and the structures they came from (lists or nested dicts)."""
    labels = _as_list(labels)
    if isinstance(labels, str) or not isinstance(labels, (Sequence, Mapping)):
        raise TypeError(
            f"labels must be a list, a nested dict, or one of these per text; got {type(labels).__name__}"
        )
    if not labels:
        raise ValueError("labels is empty: give at least one label")
    if isinstance(labels, Mapping) or isinstance(labels[0], str):
        structure = dict(labels) if isinstance(labels, Mapping) else list(labels)
        return [_flat(structure, "labels", separator)] * count, [structure] * count
    if not isinstance(labels[0], (Sequence, Mapping)):
        raise TypeError(f"labels[0] must be a string, got {type(labels[0]).__name__}")
    if len(labels) != count:
        raise ValueError(f"labels has one list per text, so it needs {count} of them; got {len(labels)}")
    structures = [list(each) if isinstance(each, tuple) else each for each in labels]
    return [_flat(each, f"labels[{index}]", separator) for index, each in enumerate(structures)], structures


def _flat(structure: Any, name: str, separator: str) -> tuple[str, ...]:
    if isinstance(structure, list):
        for index, label in enumerate(structure):
            _check_string(label, f"{name}[{index}]")
    elif not isinstance(structure, dict):
        raise TypeError(f"{name} must be a list of strings or a nested dict, got {type(structure).__name__}")
    try:
        flat = tuple(flatten_labels(structure, separator=separator))
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    for label in flat:
        _check_string(label, f"a label of {name}")
    if not flat:
        raise ValueError(f"{name} is empty: give at least one label")
    return flat


def thresholds_per_text(threshold: Any, count: int) -> list[float]:
    values = _per_text(threshold, count, "threshold", isinstance(threshold, (list, tuple)))
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"threshold must be a number, got {type(value).__name__} for text {index}")
        if not 0 <= float(value) <= 1:
            raise ValueError(f"threshold must be between 0 and 1, got {value} for text {index}")
    return [float(value) for value in values]


def classification_types_per_text(value: Any, count: int, default: str) -> list[str]:
    values = _per_text(
        default if value is None else value, count, "classification_type", isinstance(value, (list, tuple))
    )
    return [default if each is None else check_classification_type(each) for each in values]


def check_classification_type(value: Any) -> str:
    name = CLASSIFICATION_TYPES.get(value.strip().lower()) if isinstance(value, str) else None
    if name is None:
        raise ValueError(f"unsupported classification type {value!r}: choose 'single-label' or 'multi-label'")
    return name


def check_count(name: str, value: Any) -> int:
    """Returns a whole number of at least 1; else raises TypeError or ValueError, which say what it is for."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__}") from None
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return count


def check_labels_per_pass(value: Any) -> None:
    if value in (None, "auto") or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return
    raise ValueError(f"labels_per_pass must be a positive number, 'auto' or None, got {value!r}")


def tasks_per_text(prompt: Any, count: int) -> list[str]:
    values = _per_text("" if prompt is None else prompt, count, "prompt", isinstance(prompt, (list, tuple)))
    for index, value in enumerate(values):
        _check_string("" if value is None else value, f"prompt (for text {index})")
    return [value or "" for value in values]


def examples_per_text(examples: Any, count: int, name: str = "examples") -> list[list[dict[str, Any]]]:
    """Returns the examples of every text, from a list of dicts for all, or one such list or None per text."""
    if not examples:
        return [[]] * count
    if not isinstance(examples, (list, tuple)):
        raise TypeError(
            f"{name} must be a list of dicts, or one such list per text; got {type(examples).__name__}"
        )
    if any(isinstance(example, dict) for example in examples):
        return [_check_examples(examples, name)] * count
    return [
        _check_examples(each or (), f"{name}[{index}]")
        for index, each in enumerate(_per_text(examples, count, name, True))
    ]


def _check_examples(examples: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(examples, (list, tuple)):
        raise TypeError(f"{name} must be a list of dicts, got {type(examples).__name__}")
    kept = [example for example in examples if example is not None]
    for index, example in enumerate(kept):
        if not isinstance(example, dict) or not isinstance(example.get("text", ""), str):
            raise TypeError(f"{name}[{index}] must be a dict with a 'text' string and a list of 'labels'")
        _check_string(example.get("text", ""), f"{name}[{index}]['text']")
        for key in ("labels", "true_labels", "all_labels"):
            labels = example.get(key) or ()
            for label in [labels] if isinstance(labels, str) else labels:
                _check_string(label, f"a label of {name}[{index}][{key!r}]")
    return kept


def _per_text(value: Any, count: int, name: str, is_list: bool) -> list[Any]:
    if not is_list:
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} has one entry per text, so it needs {count}; got {len(value)}")
    return list(value)
