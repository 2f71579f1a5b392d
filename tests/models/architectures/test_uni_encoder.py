"""The uni-encoder gives the reference's logits, where every two options meet with all their values."""

from __future__ import annotations

from typing import Any

import pytest

from tests.accuracy import assert_same_vectors
from tests.pairwise import BOTH, POOLED, Row, in_words, pairwise
from tests.parity import assert_parity
from tests.sentences import LABELS, TEXTS
from tests.tiny import (
    ALL_SCORERS,
    ENCODERS,
    MORE_ENCODERS,
    SHOT,
    VECTOR_POOLINGS,
    fast_pipeline,
    reference_model,
    reference_pipeline,
)

HEAD = ("scorer_type", "pooling_strategy", "extract_text_features", "class_token_pooling")


def suits(row: Row) -> bool:
    """The scorer that attends to the rows of the text, and no other, takes them without pooling."""
    scorer, pooling = row.get("scorer_type"), row.get("pooling_strategy")
    return None in (scorer, pooling) or (scorer == "cross-attn") == (pooling == "pass")


ROWS = pairwise(
    suits,
    together=[HEAD],
    encoder=(*ENCODERS, *MORE_ENCODERS),
    scorer_type=ALL_SCORERS,
    pooling_strategy=(*VECTOR_POOLINGS, "pass"),
    prompt_first=BOTH,
    use_segment_embeddings=BOTH,
    **POOLED,
)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=in_words)
def test_options(row: Row) -> None:
    options = dict(row)
    encoder, shot = options.pop("encoder"), options.pop("shot")
    assert_parity(reference_model(encoder, **options), **(SHOT if shot else {}))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu", "tanh"])
def test_projector_activations(activation: str) -> None:
    assert_parity(reference_model(projector_hidden_act=activation))


def test_projector_of_another_width() -> None:
    assert_parity(reference_model(hidden_size=40))


@pytest.mark.parametrize("pooling", ["avg", "max", "first"])
@pytest.mark.parametrize("extract", BOTH)
def test_lstm(pooling: str, extract: bool) -> None:
    options: dict[str, Any] = {"pooling_strategy": pooling, "extract_text_features": extract}
    assert_parity(reference_model(use_lstm=True, scorer_type="mlp", **options))


@pytest.mark.parametrize("scorer", ALL_SCORERS)
@pytest.mark.parametrize("extract", BOTH)
def test_embeddings_have_the_reference_shapes_and_values(scorer: str, extract: bool) -> None:
    model = reference_model(scorer_type=scorer, extract_text_features=extract, class_token_pooling="average")
    reference, pipeline = reference_pipeline(model), fast_pipeline(model)
    found = pipeline.get_embeddings(TEXTS, LABELS)
    for text, labels, ours in zip(TEXTS, LABELS, found, strict=True):
        theirs = reference.get_embeddings([text], labels)[0]
        for key in ("logits", "text_embedding", "class_embeddings"):
            assert_same_vectors(ours[key], theirs[key])


@pytest.mark.parametrize("encoder", ["deberta-v2", "modernbert"])
def test_lengths_around_every_boundary(encoder: str) -> None:
    """Texts of 1 to 257 bytes lie around buckets, the largest distance and the window."""
    texts = ["x" * length for length in (1, 17, 63, 64, 65, 257)]
    model = reference_model(encoder, scorer_type="mlp", pooling_strategy="avg")
    assert_parity(model, texts, [["a", "b"]] * len(texts))


def test_three_hundred_labels() -> None:
    model = reference_model(scorer_type="cross-attn", extract_text_features=True)
    assert_parity(model, ["a text"], [[f"l{number}" for number in range(300)]], max_length=2048)
