"""The functions that `gliclass.pipeline` exports, for nested labels, predictions of them, and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gliclass_fast.text.examples import format_examples
from gliclass_fast.text.labels import below, flatten_nested
from gliclass_fast.text.predictions import best_first
from gliclass_fast.text.prompts import Markers


def flatten_hierarchical_labels(labels: Any, prefix: str = "", separator: str = ".") -> list[str]:
    """Flattens labels of any depth: {"topic": ["sport"]} gives ["topic.sport"]; a dict of strings too.

    Raises WrongLabels, a TypeError and a ValueError, for anything but str, list and dict.
    """
    return flatten_nested(labels, prefix, separator)


def format_examples_prompt(
    examples: Sequence[Mapping[str, Any]], example_token: str = "<<EXAMPLE>>", sep_token: str = "<<SEP>>"
) -> str:
    """Returns few-shot examples {"text", "labels"} as they stand in a prompt.

    It formats what the reference formats, other keys and types among it, which calls refuse.
    """
    return format_examples(examples or (), Markers(example=example_token, sep=sep_token))


def build_hierarchical_output(
    predictions: Sequence[Mapping[str, Any]],
    original_labels: Any,
    separator: str = ".",
    all_scores: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Returns scores in the shape of the labels that were given: {"topic": {"sport": 0.9, ...}}.

    Args:
        predictions: {"label", "score"} each; for a label that stands there twice the last score counts.
        original_labels: a label, a list of labels, or a dict of such structures. Anything else holds no
            labels, as in the reference: {"topic": None} gives {"topic": {}}, and so does a tuple.
        separator: what joins the levels in the predictions' labels.
        all_scores: the scores of labels without a prediction; 0 where a label is missing here too.
    """
    known = {**(all_scores or {}), **{each["label"]: each["score"] for each in predictions}}

    def shaped(part: Any, path: str) -> dict[str, Any]:
        if isinstance(part, Mapping):
            return {key: shaped(value, below(path, key, separator)) for key, value in part.items()}
        names = [part] if isinstance(part, str) else part if isinstance(part, list) else ()
        return {name: known.get(below(path, name, separator), 0.0) for name in names}

    return shaped(original_labels, "")


def parse_hierarchical_prediction(prediction: str, separator: str = ".") -> dict[str, str]:
    """Returns a flat label as {"full": "a.b", "level_0": "a", "level_1": "b"}."""
    levels = enumerate(prediction.split(separator))
    return {"full": prediction, **{f"level_{depth}": name for depth, name in levels}}


def group_predictions_by_hierarchy(
    predictions: Sequence[Mapping[str, Any]], separator: str = "."
) -> dict[str, list[Mapping[str, Any]]]:
    """Returns the predictions by the first level of their labels, the best first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in best_first(predictions):
        groups.setdefault(each["label"].split(separator)[0], []).append(each)
    order = dict.fromkeys(each["label"].split(separator)[0] for each in predictions)
    return {name: groups[name] for name in order}


def get_best_per_category(
    predictions: Sequence[Mapping[str, Any]], separator: str = "."
) -> dict[str, Mapping[str, Any]]:
    """Returns the best prediction of every first level."""
    groups = group_predictions_by_hierarchy(predictions, separator)
    return {name: group[0] for name, group in groups.items()}
