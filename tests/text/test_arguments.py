"""Every wrong argument gets an error that says what was expected."""

from __future__ import annotations

import inspect
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast import (
    ArgumentError,
    ZeroShotClassificationPipeline,
    ZeroShotClassificationWithChunkingPipeline,
)
from gliclass_fast.pipeline import hugging_face
from tests import families
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model


@pytest.fixture(scope="module")
def pipeline() -> ZeroShotClassificationPipeline:
    return fast_pipeline(reference_model())


@pytest.mark.parametrize("half", [Decimal("0.5"), Fraction(1, 2), np.float16(0.5), torch.tensor(0.5)])
def test_thresholds_are_any_numbers(pipeline: ZeroShotClassificationPipeline, half: Any) -> None:
    texts, labels = ["abc", "def"], ["a", "b", "c"]
    expected = pipeline(texts, labels, threshold=0.5)
    for threshold in (half, [half, half], dict.fromkeys(labels, half)):
        assert pipeline(texts, labels, threshold=threshold) == expected


WRONG: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
    (3, ["a"], {}, TypeError, "texts must be a string or a list"),
    ({"a": 1}, ["a"], {}, TypeError, "texts must be"),
    (["x", None], ["a"], {}, TypeError, r"texts\[1\] must be a string, got NoneType"),
    ("x", [], {}, ValueError, "labels is empty"),
    ("x", {}, {}, ValueError, "labels is empty"),
    ("x", {"a": []}, {}, ValueError, "labels is empty"),
    ("x", "positive", {}, TypeError, "labels must be a list"),
    ("x", ["a", 3], {}, TypeError, r"labels\[1\] must be a string, got int"),
    ("x", [3], {}, TypeError, r"labels\[0\] must be a string"),
    (["x", "y"], [b"a"], {}, TypeError, r"labels\[0\] must be a string, got bytes: decode it first"),
    ("x", {"a": [1]}, {}, TypeError, "labels must be strings, got 1"),
    ("x", {"a": 1}, {}, TypeError, "list, a dict or a string, got int"),
    ("x", {1: ["a"]}, {}, TypeError, "labels must be strings"),
    (["x", "y"], [["a"]], {}, ValueError, "labels has one list per text, so it needs 2"),
    (["x", "y"], [["a"], []], {}, ValueError, r"labels\[1\] is empty"),
    (["x", "y"], [["a"], "b"], {}, TypeError, r"labels\[1\] must be a list"),
    (["x", "y"], [["a"], ["b", None]], {}, TypeError, r"labels\[1\]\[1\] must be a string"),
    ("x", ["a"], {"threshold": 1.5}, ValueError, "between 0 and 1, got 1.5"),
    ("x", ["a"], {"threshold": -0.1}, ValueError, "between 0 and 1"),
    ("x", ["a"], {"threshold": float("nan")}, ValueError, "between 0 and 1, got nan"),
    ("x", ["a"], {"threshold": Decimal("1.5")}, ValueError, "between 0 and 1, got 1.5"),
    ("x", ["a"], {"threshold": Decimal("sNaN")}, ValueError, "between 0 and 1, got sNaN"),
    ("x", ["a"], {"threshold": "0.5"}, TypeError, "threshold must be a number"),
    ("x", ["a"], {"threshold": True}, TypeError, "threshold must be a number"),
    (
        "x",
        ["a"],
        {"threshold": [0.1, 0.2]},
        ValueError,
        "threshold has one entry per text, so it needs 1; got 2",
    ),
    ("x", ["a"], {"classification_type": "both"}, ValueError, "choose 'single-label' or 'multi-label'"),
    ("x", ["a"], {"classification_type": 3}, ValueError, "choose 'single-label'"),
    ("x", ["a"], {"classification_type": ["single", "multi"]}, ValueError, "needs 1; got 2"),
    ("x", ["a"], {"prompt": 3}, TypeError, r"prompt \(for text 0\) must be a string"),
    (["x", "y"], ["a"], {"prompt": ["p"]}, ValueError, "prompt has one entry per text"),
    ("x", ["a"], {"examples": "shot"}, TypeError, "examples must be a list of dicts"),
    ("x", ["a"], {"examples": [{"text": 3}]}, TypeError, r"examples\[0\] must be a dict"),
    (
        "x",
        ["a"],
        {"examples": [{"text": "t", "labels": [3]}]},
        TypeError,
        r"a label of examples\[0\]\['labels'\] must be a string",
    ),
    (["x", "y"], ["a"], {"examples": [[], [], []]}, ValueError, "examples has one entry per text"),
    (["x"], ["a"], {"examples": [["shot"]]}, TypeError, r"examples\[0\]\[0\] must be a dict"),
    (["x", "\ud800"], ["a"], {}, ValueError, r"texts\[1\] is not valid text: surrogates not allowed"),
    ("x", ["a\udfff"], {}, ValueError, r"labels\[0\] is not valid text"),
    ("x", {"a": ["\ud800"]}, {}, ValueError, "a label of labels is not valid text"),
    ("x", ["a"], {"labels_per_pass": 0}, ValueError, "labels_per_pass must be a positive number"),
    ("x", ["a"], {"labels_per_pass": "all"}, ValueError, "labels_per_pass must be"),
]


@pytest.mark.parametrize(("texts", "labels", "arguments", "error", "message"), WRONG)
def test_wrong_arguments(
    pipeline: Any, texts: Any, labels: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        pipeline(texts, labels, **arguments)
    assert isinstance(raised.value, ArgumentError)


MANY_TRUTHS = (np.array([True, False]), torch.tensor([1, 2]))
NO_WHOLE_NUMBER = (
    True,
    -1,
    1.5,
    "abc",
    [],
    {},
    object(),
    np.array([1, 2]),
    float("nan"),
    -(10**400),
    10**5000,
)
# what is wrong of each argument, in every method that has it
WRONG_VALUES: dict[str, tuple[Any, ...]] = {
    "texts": (None, True, -1, 1.5, {}, object(), [None], np.array([1]), 10**400),
    "labels": (None, True, -1, 1.5, "abc", [], {}, object(), [None], {(1, 2): ["x"]}, {"a": {(1,): ["x"]}}),
    "threshold": (None, True, -1, 1.5, "abc", [], object(), float("nan"), 10**400, 10**5000),
    "classification_type": (True, -1, 1.5, "abc", [], {}, object(), np.array(["x"]), 10**400, 10**5000),
    "rac_examples": (True, -1, 1.5, "abc", {}, object(), np.array([1]), 10**400),
    "examples": (True, -1, 1.5, "abc", {}, object(), np.array([1]), 10**400),
    "prompt": (True, -1, 1.5, {}, object(), np.array([1, 2]), 10**400),
    "adapter_ids": (True, -1, 1.5, "abc", [], {}, object(), np.array([1]), 10**400),
    "images": (True, "abc", object(), np.array([1, 2]), np.array([1])),
    "labels_per_pass": NO_WHOLE_NUMBER[:-1],
    "first_text": NO_WHOLE_NUMBER,
    "label_descriptions": (True, 1.5, "abc", [], object(), {"a": 1}, {"a": None}, {1: "a"}, {"b": "c"}),
    "min_score": (True, -1, 1.5, "abc", [], {}, object(), float("nan"), 10**5000),
    "label_permutations": (0, None, *NO_WHOLE_NUMBER),
    "on_truncation": (True, -1, "abc", [], {}, object(), np.array(["warn", "error"]), 10**5000),
    "return_hierarchical": MANY_TRUTHS,
    "return_info": MANY_TRUTHS,
    "multi_label": MANY_TRUTHS,
    "hypothesis_template": (True, -1, "abc", object(), np.array(["{}", "x{}"]), 10**5000),
    "top_k": (0, *NO_WHOLE_NUMBER),
    "labels_chunk_size": (0, *NO_WHOLE_NUMBER),
    "text_chunk_size": NO_WHOLE_NUMBER,
    "text_chunk_overlap": NO_WHOLE_NUMBER,
    "chunk_tokens": (0, *NO_WHOLE_NUMBER),
    "overlap_tokens": NO_WHOLE_NUMBER,
}
IN_WORDS = {"classification_type": "classification.type", "adapter_ids": "adapter"}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values_are_named_and_change_nothing(pipeline: Any, name: str) -> None:
    chunking = ZeroShotClassificationWithChunkingPipeline(pipeline.model, pipeline.tokenizer, device="cpu")
    given = {"texts": ["a text"], "labels": ["a"]}
    before = [face(**given, threshold=0.0) for face in (pipeline, chunking)]
    methods = [pipeline, pipeline.prepare, pipeline.get_embeddings, pipeline.prepare_inputs, chunking]
    tried = 0
    for method in methods:
        its_own = inspect.signature(method).parameters
        if name not in its_own and not (method is pipeline and name in hugging_face.ITS_OWN):
            continue
        beside = {"min_score": {"classification_type": "single"}, "overlap_tokens": {"chunk_tokens": 9}}
        more = {key: each for key, each in beside.get(name, {}).items() if key in its_own}
        for value in WRONG_VALUES[name]:
            with pytest.raises(ArgumentError, match=IN_WORDS.get(name, name)):
                method(**{**given, **more, name: value})
            tried += 1
    assert tried
    assert [face(**given, threshold=0.0) for face in (pipeline, chunking)] == before


@pytest.mark.parametrize("first", [5, np.int64(5), np.uint8(250), 10**400], ids=lambda first: str(first)[:5])
def test_texts_are_counted_from_the_first(pipeline: Any, first: Any) -> None:
    texts = ["a"] * 9 + ["x" * 2000]
    with pytest.raises(ValueError, match=rf"in text {int(first) + 9} \(counted"):
        pipeline(texts, ["a"], on_truncation="error", first_text=first)
    with pytest.raises(TypeError, match=rf"texts\[{int(first) + 1}\] must be a string"):
        pipeline(["a", None], ["a"], first_text=first)


@pytest.mark.parametrize("kind", ["bi-encoder", "encoder-decoder, umT5", "GliZNet A"])
def test_a_stock_model_takes_no_empty_batch(kind: str) -> None:
    pipeline = families.pipeline(kind)
    for empty in ([], (), np.array([])):
        with pytest.raises(ArgumentError, match="texts is empty"):
            pipeline.prepare_inputs(empty, ["a"])


def test_wrong_settings() -> None:
    model = reference_model()
    with pytest.raises(ValueError, match="choose 'single-label'"):
        ZeroShotClassificationPipeline(model, byte_tokenizer(), classification_type="both", device="cpu")
    with pytest.raises(TypeError):
        ZeroShotClassificationPipeline(model, byte_tokenizer(), max_length="long", device="cpu")  # type: ignore[arg-type]
    for setting in ("max_length", "batch_tokens"):
        with pytest.raises(ValueError, match=f"{setting} must be at least 1, got -5"):
            ZeroShotClassificationPipeline(model, byte_tokenizer(), device="cpu", **{setting: -5})


@pytest.mark.parametrize("value", MANY_TRUTHS, ids=str)
def test_a_progress_bar_is_there_or_not(pipeline: Any, value: Any) -> None:
    with pytest.raises(ArgumentError, match="progress_bar must be true or false, got"):
        ZeroShotClassificationPipeline(pipeline.model, pipeline.tokenizer, device="cpu", progress_bar=value)
    with pytest.raises(ArgumentError, match="progress_bar must be true or false, got"):
        pipeline.progress_bar = value


def test_what_is_allowed(pipeline: Any) -> None:
    assert pipeline([], ["a"]) == []
    assert pipeline([], {"a": ["b"]}) == []
    assert len(pipeline("", ["a"], threshold=0)[0]) == 1
    assert [each["label"] for each in pipeline("x", ["a", "a"], threshold=0)[0]] == ["a", "a"]
    assert [each["label"] for each in pipeline(("x",), ("a", ""), threshold=0)[0]] == ["a", ""]
    assert len(pipeline(["x", "y"], [("a", "b"), ["c"]], threshold=np.float32(0))) == 2
    assert len(pipeline("x", ["a"], rac_examples=[{"true_labels": ["b"]}], threshold=0)[0]) == 1
    assert pipeline.flatten_labels({"a": {"b": ["c"]}, "d": "e"}) == ["a.b.c", "d.e"]


def test_names_that_a_call_does_not_have_are_wrong_arguments(pipeline: Any) -> None:
    chunking = ZeroShotClassificationWithChunkingPipeline(pipeline.model, pipeline.tokenizer, device="cpu")
    hugging = hugging_face.HuggingFacePipeline(pipeline)
    for method in (
        pipeline,
        pipeline.prepare,
        pipeline.get_embeddings,
        chunking,
        chunking.process_single_text,
    ):
        name = next(iter(inspect.signature(method).parameters))
        for positional, named, told in (
            ((), {}, f"'{name}'; the arguments are {name}, labels"),
            (("x",), {}, "'labels'; the arguments are"),
            (("x", ["a"], *[None] * 20), {}, "too many positional arguments"),
            (("x", ["a"]), {"labels": ["a"]}, "multiple values for argument 'labels'"),
            (("x", ["a"]), {"promt": "p"}, "unknown argument 'promt'; did you mean 'prompt'"),
            (("x", ["a"]), {"zzz": 1}, f"unknown argument 'zzz'; the arguments are {name}, labels"),
        ):
            with pytest.raises(ArgumentError, match=told):
                method(*positional, **named)
    with pytest.raises(ArgumentError, match="unknown argument 'tresh'; did you mean 'threshold'"):
        pipeline("x", ["a"], tresh=1)
    with pytest.raises(ArgumentError, match="'sequences'"):
        hugging()


def test_an_error_from_within_a_call_stays_what_it_is(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(pipeline), "_scored", lambda *given, **named: len(5))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no len") as caught:
        pipeline("x", ["a"])
    assert not isinstance(caught.value, ArgumentError)


def test_a_chunk_of_no_characters_is_refused_at_once(pipeline: Any) -> None:
    with pytest.raises(ArgumentError, match="text_chunk_size"):
        ZeroShotClassificationWithChunkingPipeline(
            pipeline.model, pipeline.tokenizer, device="cpu", text_chunk_size=0
        )
