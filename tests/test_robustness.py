"""Random requests meet only documented errors and finite scores, and every text scores as it does alone."""

from __future__ import annotations

import math
from functools import lru_cache
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gliclass_fast import ZeroShotClassificationPipeline
from tests import families
from tests.accuracy import ALONE_TOLERANCE, assert_same_results
from tests.tiny import fast_pipeline, label_tower, reference_model, tokenizer_of

WINDOW = 384

MARKED = st.sampled_from(
    ["<<LABEL>>", "<<SEP>>", "<<EXAMPLE>>", "a<<LABEL>>b", "<<SEP>>[SEP][PAD]", "[CLS]", "[UNK]"]
)
# longer than the window or nearly so; a draw for every letter would take longer than to score the text
LONG_TEXT = st.builds(
    lambda length, seed: "".join(Random(seed).choices("ab ", k=length)), st.integers(300, 500), st.integers(0)
)
ANY_TEXT = st.one_of(st.text(max_size=40), MARKED, st.just(""), LONG_TEXT)
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


UNI = {"class_token_pooling": "average", "use_segment_embeddings": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "labels first": (
        "deberta-v2",
        {**UNI, "prompt_first": True, "scorer_type": "cross-attn", "extract_text_features": True},
    ),
    "text first": (
        "deberta-v2",
        {**UNI, "prompt_first": False, "scorer_type": "mlp", "pooling_strategy": "avg"},
    ),
    "bi-encoder": ("bert", {"architecture_type": "bi-encoder", "pooling_strategy": "avg"}),
    "bi-encoder-fused": ("bert", {"architecture_type": "bi-encoder-fused", "prompt_first": False}),
    "encoder-decoder": ("t5", {"architecture_type": "encoder-decoder", "scorer_type": "cross-attn"}),
    "encoder-decoder-cls": ("t5", {"architecture_type": "encoder-decoder-cls"}),
}


@lru_cache
def pipeline(family: str) -> ZeroShotClassificationPipeline:
    if family == "GliZNet":
        model = families.reference("GliZNet D")
    else:
        encoder, options = FAMILIES[family]
        tower = label_tower("deberta-v2") if family.startswith("bi-encoder") else {}
        model = reference_model(encoder, **tower, **options)
    return fast_pipeline(model, tokenizer_of(model), max_length=WINDOW, batch_tokens=700)


def answer(family: str, request: dict[str, Any]) -> list[Any] | None:
    """Gives the scores, or None where labels do not fit, which is the one error these requests may meet."""
    if family == "GliZNet":
        request = {**request, "prompt": None, "examples": []}  # it takes none
    try:
        return pipeline(family)(**request, threshold=0.0)
    except ValueError as error:
        assert "do not fit the window" in str(error)
        return None


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(family=st.sampled_from([*FAMILIES, "GliZNet"]), request=REQUEST)
def test_random_requests(family: str, request: dict[str, Any]) -> None:
    together = answer(family, request)
    alone = [answer(family, {**request, "texts": text}) for text in request["texts"]]
    if together is None:
        assert None in alone
        return
    labels = pipeline(family).flatten_labels(request["labels"])
    for found, single in zip(together, alone, strict=True):
        assert single is not None
        assert all(math.isfinite(each["score"]) and 0 <= each["score"] <= 1 for each in found)
        names = [each["label"] for each in found]
        if request["classification_type"] == "multi-label":
            assert names == labels
            assert_same_results(found, single[0], ALONE_TOLERANCE)
        else:
            [ours], [theirs] = found, single[0]
            assert names[0] in labels and abs(ours["score"] - theirs["score"]) <= ALONE_TOLERANCE
