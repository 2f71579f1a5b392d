"""Every wrong argument gets an error that says what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gliclass_fast import ZeroShotClassificationPipeline
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model


@pytest.fixture(scope="module")
def pipeline() -> ZeroShotClassificationPipeline:
    return fast_pipeline(reference_model())


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
    with pytest.raises(error, match=message):
        pipeline(texts, labels, **arguments)


def test_wrong_settings() -> None:
    model = reference_model()
    with pytest.raises(ValueError, match="choose 'single-label'"):
        ZeroShotClassificationPipeline(model, byte_tokenizer(), classification_type="both", device="cpu")
    with pytest.raises(TypeError):
        ZeroShotClassificationPipeline(model, byte_tokenizer(), max_length="long", device="cpu")  # type: ignore[arg-type]
    for setting in ("max_length", "batch_tokens"):
        with pytest.raises(ValueError, match=f"{setting} must be at least 1, got -5"):
            ZeroShotClassificationPipeline(model, byte_tokenizer(), device="cpu", **{setting: -5})


def test_what_is_allowed(pipeline: Any) -> None:
    assert pipeline([], ["a"]) == []
    assert pipeline([], {"a": ["b"]}) == []
    assert len(pipeline("", ["a"], threshold=0)[0]) == 1
    assert [each["label"] for each in pipeline("x", ["a", "a"], threshold=0)[0]] == ["a", "a"]
    assert [each["label"] for each in pipeline(("x",), ("a", ""), threshold=0)[0]] == ["a", ""]
    assert len(pipeline(["x", "y"], [("a", "b"), ["c"]], threshold=np.float32(0))) == 2
    assert len(pipeline("x", ["a"], rac_examples=[{"true_labels": ["b"]}], threshold=0)[0]) == 1
    assert pipeline.flatten_labels({"a": {"b": ["c"]}, "d": "e"}) == ["a.b.c", "d.e"]
