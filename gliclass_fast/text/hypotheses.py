"""What zero-shot classification on Hugging Face takes: candidate labels, and a template for hypotheses.

A hypothesis is what the model reads for a label. As in transformers, it is `template.format(label)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import Any

from gliclass_fast.text.arguments import said
from gliclass_fast.text.errors import WrongValue

LABEL_ALONE = "{}"  # the template as GLiClass was trained


def split_labels(labels: str) -> list[str]:
    """Returns the labels of a string that separates them by commas."""
    return [name for each in labels.split(",") if (name := each.strip())]


def kind_for(labels: int, multi_label: bool = False) -> str:
    """Returns the classification type for so many labels: the score of a single one is no share of 1."""
    return "multi-label" if multi_label or labels == 1 else "single-label"


def hypotheses(template: Any, labels: Sequence[str]) -> dict[str, str] | None:
    """Returns the hypothesis of every label, or None where it is the label alone.

    A template from a stranger is checked by `places_in` first, as `str.format` reads attributes of a label.
    Raises WrongValue for a template that cannot be filled, and for one that has no place for the label.
    """
    if template is None or (isinstance(template, str) and template == LABEL_ALONE):
        return None
    try:
        if template.format("a") != template.format("b"):
            return {label: template.format(label) for label in labels}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        pass
    raise WrongValue(f"hypothesis_template {said(template)} needs {{}} where the label goes")


def places_in(template: str) -> int:
    """Returns how often a template has the label, as {} or {0}.

    Raises WrongValue for any other field: one may read attributes, as {0.__class__} does, or ask for a width
    that fills the memory.
    """
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise WrongValue(f"hypothesis_template {said(template)} is not valid: {error}") from None
    fields = [(name, more, turned) for _, name, more, turned in parsed if name is not None]
    if any(name not in ("", "0") or more or turned for name, more, turned in fields):
        raise WrongValue(f"hypothesis_template {said(template)} takes {{}} for the label alone")
    if len(fields) > 1 and any(name == "" for name, _, _ in fields):  # str.format would number them
        raise WrongValue(f"hypothesis_template {said(template)} has several places: write each as {{0}}")
    return len(fields)
