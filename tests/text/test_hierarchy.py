"""The reference's helpers for nested labels and predictions give what the reference's give."""

from __future__ import annotations

from typing import Any

import gliclass.pipeline as reference
import pytest

import gliclass_fast.pipeline as ours
from gliclass_fast import ArgumentError

TREE = {"sentiment": ["positive", "negative"], "topic": {"sport": ["football", "chess"], "art": "music"}}
UNNAMED = {"": ["plain", "other"], "topic": {"": ["chess"], "sport": "chess"}, "deep": {"": {"": ["a"]}}}
FOUND = [
    {"label": "topic.sport.chess", "score": 0.2},
    {"label": "sentiment.positive", "score": 0.7},
    {"label": "topic.art.music", "score": 0.9},
    {"label": "plain", "score": 0.1},
]
SHOTS = [{"text": "good", "labels": ["a", "b"]}, {"text": "bad", "true_labels": ["c"]}]
CALLS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "flatten": ("flatten_hierarchical_labels", (TREE,)),
    "flatten with a prefix": ("flatten_hierarchical_labels", (TREE, "top", "/")),
    "flatten a list": ("flatten_hierarchical_labels", (["a", "b"],)),
    "flatten levels without a name": ("flatten_hierarchical_labels", (UNNAMED,)),
    "output": ("build_hierarchical_output", (FOUND, TREE)),
    "output of all": ("build_hierarchical_output", (FOUND, TREE, ".", {"sentiment.negative": 0.3})),
    "output of levels without a name": (
        "build_hierarchical_output",
        (FOUND, UNNAMED, ".", {"other": 0.4, "topic..chess": 0.5, "deep...a": 0.6}),
    ),
    "output of what holds no labels": (
        "build_hierarchical_output",
        (FOUND, {"a": 5, "b": None, "c": ("x",), "d": ["x"]}),
    ),
    "output of nothing": ("build_hierarchical_output", (FOUND, None)),
    "output of a list": ("build_hierarchical_output", (FOUND, ["plain", "other"])),
    "parse": ("parse_hierarchical_prediction", ("a.b.c",)),
    "parse otherwise": ("parse_hierarchical_prediction", ("a/b", "/")),
    "group": ("group_predictions_by_hierarchy", (FOUND,)),
    "best": ("get_best_per_category", (FOUND,)),
    "examples": ("format_examples_prompt", (SHOTS,)),
    "examples with tokens": ("format_examples_prompt", (SHOTS, "<E>", "<S>")),
    "an example of one label": ("format_examples_prompt", ([{"text": "good", "labels": "first"}],)),
    "no examples": ("format_examples_prompt", ([],)),
    "None": ("format_examples_prompt", (None,)),
    "an example with more": ("format_examples_prompt", ([{"text": 5, "labels": 7, "id": 1}],)),
}


@pytest.mark.parametrize("name", CALLS)
def test_helpers_give_what_the_reference_gives(name: str) -> None:
    function, arguments = CALLS[name]
    expected = getattr(reference, function)(*arguments)
    found = getattr(ours, function)(*arguments)
    assert found == expected
    if isinstance(expected, dict):
        assert list(found) == list(expected)


@pytest.mark.parametrize("labels", [5, None, (("a",)), {"a": None}, {"a": ("x",)}], ids=str)
def test_labels_of_a_wrong_type_are_the_error_of_the_reference_too(labels: Any) -> None:
    for function in (reference.flatten_hierarchical_labels, ours.flatten_hierarchical_labels):
        with pytest.raises(ValueError, match=r"(?i)label"):
            function(labels)
    with pytest.raises(TypeError, match="labels must be a list, a dict or a string") as found:
        ours.flatten_hierarchical_labels(labels)
    assert isinstance(found.value, ArgumentError)
