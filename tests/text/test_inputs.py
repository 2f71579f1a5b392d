"""Whatever holds the strings, the prompts and the results are those of plain strings in plain lists."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import gliclass_fast
from gliclass_fast import ZeroShotClassificationPipeline, ZeroShotClassificationWithChunkingPipeline
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model


class Topic(str, Enum):
    """Members whose f-string is `Topic.SPORT` from Python 3.11 on."""

    SPORT = "sports"
    ART = "the arts"


class Word(str):
    """A string whose own conversion lies."""

    def __str__(self) -> str:
        return "something else"


PLAIN = ["sports", "the arts"]
STRINGS: dict[str, list[Any]] = {
    "a str Enum": list(Topic),
    "a subclass of str": [Word(each) for each in PLAIN],
    "NumPy's strings": list(np.array(PLAIN)),
}
CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "a tuple": tuple,
    "an array": np.array,
    "an array of objects": lambda values: np.array([*values, None], dtype=object)[:-1],
    "a Series": lambda values: pd.Series(values, index=range(7, 7 + len(values))),
    "an Index": pd.Index,
    "a pyarrow Array": pa.array,
    "a pyarrow ChunkedArray": lambda values: pa.chunked_array([values[:1], values[1:]]),
    "a generator": lambda values: (each for each in values),
    "an iterator": iter,
    "the keys of a dict": lambda values: dict.fromkeys(values).keys(),
}
# where a caller may put strings, and what he passes then; every value is a string or a list of them
PLACES: dict[str, Callable[[list[Any]], dict[str, Any]]] = {
    "labels": lambda own: {"labels": own},
    "labels per text": lambda own: {"labels": [own, own[:1]]},
    "nested labels": lambda own: {"labels": {own[0]: {own[1]: own}}, "return_hierarchical": True},
    "descriptions": lambda own: {"labels": {own[0]: own[1]}},
    "descriptions beside a list": lambda own: {"labels": own, "label_descriptions": {own[0]: own[1]}},
    "texts": lambda own: {"texts": own},
    "a prompt": lambda own: {"prompt": own[0]},
    "prompts": lambda own: {"prompt": own},
    "examples": lambda own: {"examples": [{"text": own[0], "labels": own}]},
    "a label of an example": lambda own: {"examples": [{"text": own[0], "labels": own[1]}]},
    "retrieved examples": lambda own: {
        "rac_examples": [{"text": own[0], "true_labels": own[:1], "all_labels": own}]
    },
    "thresholds by label": lambda own: {"threshold": {own[0]: 0.9, own[1]: 0.1}, "labels": own},
    "none_label": lambda own: {
        "none_label": own[0], "min_score": 1.0, "classification_type": "single", "threshold": 0.5
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def pipeline() -> ZeroShotClassificationPipeline:
    return fast_pipeline(reference_model(use_segment_embeddings=True))


def call(pipeline: Any, arguments: dict[str, Any]) -> Any:
    return pipeline(**{"texts": ["a text", "two"], "labels": PLAIN, "threshold": 0.0, **arguments})


def exactly_plain(found: Any) -> bool:
    """Whether every string of nested results is of the type str itself."""
    if isinstance(found, dict):
        return all(exactly_plain(each) for pair in found.items() for each in pair)
    if isinstance(found, list):
        return all(exactly_plain(each) for each in found)
    return type(found) in (str, float)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", STRINGS)
def test_subclasses_of_strings_are_plain_everywhere(pipeline: Any, kind: str, place: str) -> None:
    found = call(pipeline, PLACES[place](STRINGS[kind]))  # first, so that it could spoil a cache
    assert exactly_plain(found)
    assert found == call(pipeline, PLACES[place](PLAIN))


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_is_a_list(pipeline: Any, kind: str) -> None:
    hold = CONTAINERS[kind]
    for make in (
        lambda held: {"labels": held(PLAIN)},
        lambda held: {"texts": held(PLAIN)},
        lambda held: {"prompt": held(PLAIN)},
        lambda held: {"classification_type": held(["single-label", "multi"])},
        lambda held: {"examples": [{"text": "so", "labels": held(PLAIN)}]},
        lambda held: {"examples": [{"text": "so", "true_labels": held(PLAIN)}]},
        lambda held: {"rac_examples": [{"text": "so", "true_labels": held(PLAIN[:1]), "all_labels": PLAIN}]},
        lambda held: {"rac_examples": [{"text": "so", "true_labels": PLAIN[:1], "all_labels": held(PLAIN)}]},
    ):
        assert call(pipeline, make(hold)) == call(pipeline, make(list))
    assert call(pipeline, {"threshold": hold([0.25, 0.5])}) == call(pipeline, {"threshold": [0.25, 0.5]})
    if kind not in ("an array", "a pyarrow Array", "an Index", "the keys of a dict"):  # of one type alone
        own = [["a", "b"], ["c"]]
        assert call(pipeline, {"labels": hold(own)}) == call(pipeline, {"labels": own})


def test_lists_per_text_in_columns(pipeline: Any) -> None:
    own = [["a", "b"], ["c", "d"]]
    expected = call(pipeline, {"labels": own})
    for given in (
        np.array(own),
        pa.array(own),
        pd.Series([np.array(each) for each in own]),
        (iter(each) for each in own),
    ):
        assert call(pipeline, {"labels": given}) == expected
    shots = [[{"text": "so", "labels": ["a"]}], None]
    expected = call(pipeline, {"examples": shots})
    for given in (pa.array(shots), pd.Series(shots), iter(shots)):
        assert call(pipeline, {"examples": given}) == expected
    assert expected != call(pipeline, {})


def test_what_an_example_lacks_counts_for_nothing(pipeline: Any) -> None:
    for absent, without in (
        ({"text": "so", "labels": None, "true_labels": ["a"]}, {"text": "so", "true_labels": ["a"]}),
        ({"text": "so", "labels": None}, {"text": "so", "labels": []}),
        ({"text": None, "labels": ["a"]}, {"text": "", "labels": ["a"]}),
        ({"text": "so"}, {"text": "so", "labels": []}),
        ({"text": "so", "labels": "a"}, {"text": "so", "labels": ["a"]}),
    ):
        assert call(pipeline, {"examples": [absent]}) == call(pipeline, {"examples": [without]})
    one = {"rac_examples": [{"text": "so", "true_labels": "abc", "all_labels": None}]}
    assert call(pipeline, one) == call(pipeline, {"rac_examples": [{"text": "so", "true_labels": ["abc"]}]})


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no entry of adapters": ({"adapter_ids": []}, ValueError, "adapter_ids .* needs 2; got 0"),
    "many adapters, all None": ({"adapter_ids": [None] * 5}, ValueError, "adapter_ids .* needs 2; got 5"),
    "bytes": ({"texts": b"x"}, TypeError, "texts must be a string or a list of strings, got bytes: decode"),
    "a bytearray": ({"texts": bytearray(b"x")}, TypeError, "got bytearray: decode"),
    "bytes in a list": ({"texts": ["x", b"y"]}, TypeError, r"texts\[1\] must be a string, got bytes: decode"),
    "an array of bytes": ({"texts": np.array([b"x"])}, TypeError, r"texts\[0\] .* got bytes"),
    "bytes as a label": ({"labels": ["a", b"b"]}, TypeError, r"labels\[1\] must be a string, got bytes"),
    "bytes as a prompt": ({"prompt": b"p"}, TypeError, r"prompt \(for text 0\) .* got bytes"),
    "a set of texts": ({"texts": {"x", "y"}}, TypeError, "texts is a set, whose order nobody knows"),
    "a set of labels": ({"labels": {"x", "y"}}, TypeError, "labels is a set"),
    "a set per text": ({"labels": [{"x"}, {"y"}]}, TypeError, r"labels\[0\] is a set"),
    "a set in nested labels": ({"labels": {"x": {"y"}}}, TypeError, "is a set"),
    "a set in examples": (
        {"examples": [{"text": "t", "labels": {"x"}}]},
        TypeError,
        r"\['labels'\] is a set",
    ),
    "a table": ({"texts": pd.DataFrame({"text": ["x"]})}, TypeError, "texts is a table .*one of its columns"),
    "a pyarrow table": ({"texts": pa.table({"text": ["x"]})}, TypeError, "texts is a table"),
    "no dimension": ({"texts": np.array("xy")}, TypeError, "texts must be .* got ndarray"),
    "a missing text": ({"texts": pd.Series(["x", None])}, TypeError, r"texts\[1\] must be a string"),
    "a number as examples": ({"examples": [{"text": "t", "labels": 3}]}, TypeError, "a list of strings"),
    "a misspelt key": (
        {"examples": [{"text": "t", "label": ["x"]}]},
        ValueError,
        r"examples\[0\] has the unknown key 'label'; allowed: text, labels, true_labels, all_labels",
    ),
    "a key of other examples": (
        {"rac_examples": [[{"text": "t", "labels": ["x"]}], None]},
        ValueError,
        r"rac_examples\[0\]\[0\] has the unknown key 'labels'; allowed: text, true_labels, all_labels",
    ),
    "one example alone": ({"examples": {"text": "t"}}, TypeError, "examples must be a list of dicts"),
    "no threshold": ({"threshold": None}, TypeError, "threshold must be a number, got NoneType"),
    "NumPy's truth": ({"threshold": np.bool_(True)}, TypeError, "threshold must be"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_say_what_was_expected(pipeline: Any, name: str) -> None:
    arguments, error, message = WRONG[name]
    with pytest.raises(error, match=message) as raised:
        call(pipeline, arguments)
    assert isinstance(raised.value, gliclass_fast.ArgumentError)


def test_numbers_of_numpy_are_numbers(pipeline: Any) -> None:
    expected = call(pipeline, {"threshold": 0.5})
    for half in (np.float32(0.5), np.float64(0.5), np.array(0.5)):
        assert call(pipeline, {"threshold": half}) == expected
    assert call(pipeline, {"batch_size": np.int64(1), "labels_per_pass": np.int64(1)}) == call(
        pipeline, {"labels_per_pass": 1}
    )
    for absent in (None, [None, None], (None,)):
        assert call(pipeline, {"images": absent, "audio": absent}) == call(pipeline, {})
    for absent in (None, [None, None], (None, None)):
        assert call(pipeline, {"adapter_ids": absent}) == call(pipeline, {})
    chunked = ZeroShotClassificationWithChunkingPipeline(
        reference_model(), byte_tokenizer(), device="cpu", progress_bar=False, max_length=np.int64(64),
        text_chunk_size=np.int32(40), text_chunk_overlap=np.int32(5), labels_chunk_size=np.int8(2),
    )  # fmt: skip
    assert len(chunked.chunk_text("x" * 70)) == 2 and chunked("x" * 70, PLAIN)[0] is not None


@pytest.mark.parametrize("face", [ZeroShotClassificationPipeline, ZeroShotClassificationWithChunkingPipeline])
def test_settings_that_are_no_numbers(face: Any) -> None:
    model = reference_model()
    for name in ("max_length", "batch_tokens", "text_chunk_size", "labels_chunk_size"):
        if "chunk" in name and face is ZeroShotClassificationPipeline:
            continue
        for value in ("512", 512.0, True):
            with pytest.raises(TypeError, match=f"{name} must be a whole number, got {type(value).__name__}"):
                face(model, byte_tokenizer(), device="cpu", **{name: value})
    with pytest.raises(ValueError, match="on_truncation must be one of warn, error, ignore, got 'raise'"):
        face(model, byte_tokenizer(), device="cpu", on_truncation="raise")
