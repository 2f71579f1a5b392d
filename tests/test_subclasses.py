"""Classes that users derive from the pipelines: their methods count, and each of them runs once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gliclass
import pytest
from gliclass import pipeline as reference

import gliclass_fast
from gliclass_fast import ZeroShotClassificationPipeline, ZeroShotClassificationWithChunkingPipeline, demo
from tests.accuracy import assert_same_results
from tests.tiny import byte_tokenizer, loaded, reference_model

LABELS = ["music", "cooking"]


class Mean:
    """Takes the mean of a text's chunks."""

    def aggregate_chunk_scores(
        self, chunk_scores: list[dict[str, float]], labels: Sequence[str]
    ) -> dict[str, float]:
        return {label: sum(each[label] for each in chunk_scores) / len(chunk_scores) for label in labels}


def test_scores_that_are_all_zero_stay_so() -> None:
    class Zeros(ZeroShotClassificationWithChunkingPipeline):
        def aggregate_chunk_scores(self, chunk_scores: Any, labels: Sequence[str]) -> dict[str, float]:
            return dict.fromkeys(labels, 0.0)

    options: dict[str, Any] = {"device": "cpu", "progress_bar": False, "classification_type": "single-label"}
    pipeline = Zeros(demo.PATH, **options, text_chunk_size=20, text_chunk_overlap=0)
    assert pipeline("A song. " * 20, LABELS) == [[{"label": "music", "score": 0.0}]]


@pytest.mark.parametrize("kind", ["single-label", "multi-label"])
def test_the_scores_of_chunks_are_put_together_by_a_method(kind: str) -> None:
    class Theirs(Mean, reference.ZeroShotClassificationWithChunkingPipeline):
        pass

    class Ours(Mean, ZeroShotClassificationWithChunkingPipeline):
        pass

    model, text = reference_model(), "A song. " * 20 + "I cook. " * 20
    options = {"device": "cpu", "progress_bar": False, "classification_type": kind}
    call = {"threshold": 0.0, "text_chunk_size": 60, "text_chunk_overlap": 10}
    expected = Theirs(model, byte_tokenizer(), **options)(text, LABELS, **call)
    assert_same_results(Ours(loaded(model), byte_tokenizer(), **options)(text, LABELS, **call), expected)


def test_a_call_may_be_answered_by_process_single_text() -> None:
    class Single(ZeroShotClassificationWithChunkingPipeline):
        def __call__(self, text: str) -> Any:  # type: ignore[override]
            return self.process_single_text(text, LABELS)[0]

    found = Single(demo.PATH, device="cpu", progress_bar=False)("A song.")
    plain = ZeroShotClassificationWithChunkingPipeline(demo.PATH, device="cpu", progress_bar=False)
    assert_same_results(found, plain("A song.", LABELS)[0])
    for threshold in ({"music": 0.5}, None, 7):
        with pytest.raises((TypeError, ValueError), match="threshold must be"):
            plain.process_single_text("A song.", LABELS, threshold)  # type: ignore[arg-type]


def test_a_call_of_the_shape_of_hugging_face_runs_a_subclass_once() -> None:
    class Counting(ZeroShotClassificationPipeline):
        calls = 0

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            self.calls += 1
            named.setdefault("top_k", 1)
            return super().__call__(*arguments, **named)

    pipeline = Counting(demo.PATH, device="cpu", progress_bar=False)
    assert pipeline("A song.", LABELS)["labels"] == ["music"] and pipeline.calls == 1


@pytest.mark.parametrize(
    "method", ["__call__", "aggregate_chunk_scores", "prepare_input", "_format_examples_for_input"]
)
def test_accelerate_refuses_a_class_whose_methods_it_would_leave_out(method: str) -> None:
    kind = type("Own", (reference.ZeroShotClassificationWithChunkingPipeline,), {method: lambda self: None})
    model: Any = gliclass.GLiClassModel.from_pretrained(demo.PATH)
    pipeline = kind(model, str(demo.PATH), device="cpu")
    with pytest.raises(TypeError, match=rf"accelerate would leave out Own\.{method}"):
        gliclass_fast.accelerate(pipeline)
    pipeline = reference.ZeroShotClassificationWithChunkingPipeline(model, str(demo.PATH), device="cpu")
    if method != "__call__":  # which Python looks up on the class
        setattr(pipeline, method, lambda: None)
        with pytest.raises(TypeError, match=rf"accelerate would leave out .*Pipeline\.{method}"):
            gliclass_fast.accelerate(pipeline)
