"""Random requests: only documented errors, finite scores, and every text scores as it does alone."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gliclass_fast import ZeroShotClassificationPipeline
from tests.accuracy import ALONE_TOLERANCE
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model

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


@lru_cache
def pipeline(prompt_first: bool) -> ZeroShotClassificationPipeline:
    options: dict[str, Any] = {"class_token_pooling": "average", "use_segment_embeddings": True}
    if prompt_first:
        options |= {"scorer_type": "cross-attn", "extract_text_features": True}
    else:
        options |= {"scorer_type": "mlp", "pooling_strategy": "avg"}
    model = reference_model("deberta-v2", prompt_first=prompt_first, **options)
    return fast_pipeline(model, byte_tokenizer(), max_length=WINDOW, batch_tokens=700)


def answer(prompt_first: bool, request: dict[str, Any]) -> list[Any] | None:
    """The scores, or None where the labels do not fit, which is the one error these requests may meet."""
    try:
        return pipeline(prompt_first)(**request, threshold=0.0)
    except ValueError as error:
        assert "do not fit the window" in str(error)
        return None


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(prompt_first=st.booleans(), request=REQUEST)
def test_random_requests(prompt_first: bool, request: dict[str, Any]) -> None:
    together = answer(prompt_first, request)
    alone = [answer(prompt_first, {**request, "texts": text}) for text in request["texts"]]
    if together is None:
        assert None in alone
        return
    labels = pipeline(prompt_first).flatten_labels(request["labels"])
    for found, single in zip(together, alone, strict=True):
        assert single is not None
        assert all(math.isfinite(each["score"]) and 0 <= each["score"] <= 1 for each in found)
        names = [each["label"] for each in found]
        if request["classification_type"] == "multi-label":
            assert names == labels == [each["label"] for each in single[0]]
        else:
            assert len(found) == 1 and names[0] in labels
        for ours, theirs in zip(found, single[0], strict=True):
            assert ours["score"] == pytest.approx(theirs["score"], abs=ALONE_TOLERANCE)
