"""Random requests: only documented errors, finite scores, and every text scores as it does alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gliclass_fast import ZeroShotClassificationPipeline
from tests.accuracy import ALONE_TOLERANCE
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model

EXAMPLES = 2000
WINDOW = 384

MARKED = st.sampled_from(
    ["<<LABEL>>", "<<SEP>>", "<<EXAMPLE>>", "a<<LABEL>>b", "<<SEP>>[SEP][PAD]", "[CLS]", "[UNK]"]
)
ANY_TEXT = st.one_of(
    st.text(max_size=40), MARKED, st.just(""), st.text(alphabet="ab ", min_size=300, max_size=500)
)
LABEL = st.one_of(st.text(max_size=8), MARKED)
LABELS = st.one_of(
    st.lists(LABEL, min_size=1, max_size=6),
    st.integers(1, 300).map(lambda count: [f"{number}" for number in range(count)]),
    st.dictionaries(LABEL, st.one_of(st.lists(LABEL, min_size=1, max_size=3), LABEL), min_size=1, max_size=3),
)
SHOTS = st.lists(st.fixed_dictionaries({"text": ANY_TEXT, "labels": st.lists(LABEL, max_size=2)}), max_size=2)
REQUEST = st.fixed_dictionaries(
    {
        "texts": st.lists(ANY_TEXT, min_size=1, max_size=3),
        "labels": LABELS,
        "classification_type": st.sampled_from(["single-label", "multi-label"]),
        "prompt": st.one_of(st.none(), LABEL),
        "examples": SHOTS,
        "labels_per_pass": st.sampled_from([None, None, "auto", 3]),
    }
)


@pytest.fixture(scope="module", params=[True, False], ids=["prompt first", "text first"])
def pipeline(request: pytest.FixtureRequest) -> ZeroShotClassificationPipeline:
    options: dict[str, Any] = {"class_token_pooling": "average", "use_segment_embeddings": True}
    if request.param:
        options |= {"scorer_type": "cross-attn", "extract_text_features": True}
    else:
        options |= {"scorer_type": "mlp", "pooling_strategy": "avg"}
    model = reference_model("deberta-v2", prompt_first=request.param, **options)
    return fast_pipeline(model, byte_tokenizer(), max_length=WINDOW, batch_tokens=700)


@settings(
    max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(request=REQUEST)
def test_random_requests(pipeline: ZeroShotClassificationPipeline, request: dict[str, Any]) -> None:
    try:
        together = pipeline(**request, threshold=0.0)
    except ValueError as error:
        assert "do not fit the window" in str(error)
        return
    assert len(together) == len(request["texts"])
    for text, found in zip(request["texts"], together, strict=True):
        assert all(math.isfinite(each["score"]) and 0 <= each["score"] <= 1 for each in found)
        alone = pipeline(**{**request, "texts": text}, threshold=0.0)[0]
        if request["classification_type"] == "multi-label":
            assert len(found) == len(pipeline.flatten_labels(request["labels"]))
            assert [each["label"] for each in found] == [each["label"] for each in alone]
        for ours, theirs in zip(found, alone, strict=True):
            assert ours["score"] == pytest.approx(theirs["score"], abs=ALONE_TOLERANCE)
