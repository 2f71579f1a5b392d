"""The reference's helpers for nested labels and predictions give what the reference's give."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gliclass
import gliclass.pipeline as reference
import pytest

import gliclass_fast
import gliclass_fast.pipeline as ours
from gliclass_fast import ArgumentError

# names that public code imports, by their module; our pipelines and models stand for all architectures
NAMES = {
    "": ("GLiClassModel", "GLiClassBiEncoder", "GLiClassUniEncoder", "GLiClassModelConfig"),
    "model": ("GLiClassDecoderKV", "GLiClassEncoderDecoderCLS", "GLiClassBiEncoderFused", "GLiClassOutput"),
    "pipeline": (
        "UniEncoderZeroShotClassificationPipeline", "BiEncoderZeroShotClassificationPipeline",
        "DecoderKVZeroShotClassificationPipeline", "ZeroShotClassificationWithChunkingPipeline",
    ),
}  # fmt: skip
EXISTING = {  # what the page names beside what is missing
    "config", "gliclass", "gliclass_fast", "gliclass_fast.ops", "model", "pipeline", "serve",
    "serve.__main__", "streaming",
}  # fmt: skip
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
}


@pytest.mark.parametrize("name", CALLS)
def test_helpers_give_what_the_reference_gives(name: str) -> None:
    function, arguments = CALLS[name]
    expected = getattr(reference, function)(*arguments)
    found = getattr(ours, function)(*arguments)
    assert found == expected
    if isinstance(expected, dict):
        assert list(found) == list(expected)


def test_names_are_where_the_reference_has_them() -> None:
    exported = {name for name in dir(gliclass) if name[0].isupper()}
    assert not [name for name in exported if not hasattr(gliclass_fast, name)]
    for place, names in NAMES.items():
        path = f".{place}" if place else ""
        theirs, own = (import_module(f"{package}{path}") for package in ("gliclass", "gliclass_fast"))
        assert all(callable(getattr(theirs, name)) and callable(getattr(own, name)) for name in names)


@pytest.mark.parametrize("labels", [5, None, (("a",)), {"a": None}, {"a": ("x",)}], ids=str)
def test_labels_of_a_wrong_type_are_the_error_of_the_reference_too(labels: Any) -> None:
    for function in (reference.flatten_hierarchical_labels, ours.flatten_hierarchical_labels):
        with pytest.raises(ValueError, match=r"(?i)label"):
            function(labels)
    with pytest.raises(TypeError, match="labels must be a list, a dict or a string") as found:
        ours.flatten_hierarchical_labels(labels)
    assert isinstance(found.value, ArgumentError)


def test_the_page_of_differences_names_what_is_missing() -> None:
    page = (Path(gliclass_fast.__file__).parents[1] / "docs" / "differences.md").read_text(encoding="utf-8")
    [section] = re.findall(r"^## Which modules exist\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    missing = set()
    for found in pkgutil.walk_packages(gliclass.__path__, "gliclass."):
        own = found.name.replace("gliclass", "gliclass_fast", 1)
        if find_spec(own) is None:
            missing.add(found.name.removeprefix("gliclass."))
            continue
        theirs, mine = vars(import_module(found.name)), import_module(own)
        public = {name for name, each in theirs.items() if getattr(each, "__module__", None) == found.name}
        names = {name for name in public | set(theirs.get("__all__", ())) if not name.startswith("_")}
        missing |= {name for name in names if not hasattr(mine, name)}
    assert missing == set(re.findall(r"`([\w.]+)`", section)) - EXISTING
