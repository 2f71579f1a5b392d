"""The uni-encoder against the reference at batch size 1: encoders x scorers x poolings x label poolings."""

from __future__ import annotations

import itertools

import pytest

from tests.accuracy import assert_same_logits
from tests.sentences import LABELS, TEXTS
from tests.tiny import (
    ALL_SCORERS,
    ENCODERS,
    VECTOR_POOLINGS,
    alone,
    fast_pipeline,
    reference_model,
    reference_pipeline,
)

HEADS = [(s, p) for s in ALL_SCORERS for p in (VECTOR_POOLINGS if s != "cross-attn" else ("pass",))]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("scorer", "pooling"), HEADS)
def test_logits_match_alone_and_in_a_ragged_batch(encoder: str, scorer: str, pooling: str) -> None:
    model = reference_model(encoder, scorer_type=scorer, pooling_strategy=pooling)
    reference = reference_pipeline(model)
    for extract, label_pooling in itertools.product((True, False), ("first", "average")):
        model.config.extract_text_features = extract
        model.config.class_token_pooling = label_pooling
        expected = alone(reference, TEXTS, LABELS)
        pipeline = fast_pipeline(model)
        together = pipeline.get_embeddings(TEXTS, LABELS)
        single = pipeline.get_embeddings(TEXTS[2], LABELS[2])[0]
        assert_same_logits(single["logits"], expected[2])
        for found, wanted in zip(together, expected, strict=True):
            assert_same_logits(found["logits"], wanted)


@pytest.mark.parametrize("prompt_first", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("embed_class_token", [True, False])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_switches(
    encoder: str, prompt_first: bool, normalize: bool, segments: bool, embed_class_token: bool
) -> None:
    for label_pooling, scorer in (("first", "mlp"), ("average", "weighted-dot")):
        model = reference_model(
            encoder,
            scorer_type=scorer,
            pooling_strategy="avg",
            prompt_first=prompt_first,
            normalize_features=normalize,
            use_segment_embeddings=segments,
            embed_class_token=embed_class_token,
            class_token_pooling=label_pooling,
        )
        arguments = {"prompt": "Task: ", "examples": [{"text": "so good", "labels": ["x", "y"]}]}
        for extra in ({}, arguments):
            expected = alone(reference_pipeline(model), TEXTS, LABELS, **extra)
            for found, wanted in zip(
                fast_pipeline(model).get_embeddings(TEXTS, LABELS, **extra), expected, strict=True
            ):
                assert_same_logits(found["logits"], wanted)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu", "tanh"])
def test_projector_activations(activation: str) -> None:
    model = reference_model(projector_hidden_act=activation)
    expected = alone(reference_pipeline(model), TEXTS, LABELS)
    for found, wanted in zip(fast_pipeline(model).get_embeddings(TEXTS, LABELS), expected, strict=True):
        assert_same_logits(found["logits"], wanted)


def test_projector_of_another_width() -> None:
    model = reference_model(hidden_size=40)
    expected = alone(reference_pipeline(model), TEXTS, LABELS)
    for found, wanted in zip(fast_pipeline(model).get_embeddings(TEXTS, LABELS), expected, strict=True):
        assert_same_logits(found["logits"], wanted)


@pytest.mark.parametrize("pooling", ["avg", "max", "first"])
def test_lstm(pooling: str) -> None:
    model = reference_model(use_lstm=True, pooling_strategy=pooling, scorer_type="mlp")
    for extract in (True, False):
        model.config.extract_text_features = extract
        expected = alone(reference_pipeline(model), TEXTS, LABELS)
        for found, wanted in zip(fast_pipeline(model).get_embeddings(TEXTS, LABELS), expected, strict=True):
            assert_same_logits(found["logits"], wanted)


@pytest.mark.parametrize("scorer", ALL_SCORERS)
@pytest.mark.parametrize("extract", [True, False])
def test_embeddings_have_the_reference_shapes_and_values(scorer: str, extract: bool) -> None:
    model = reference_model(scorer_type=scorer, extract_text_features=extract, class_token_pooling="average")
    reference, pipeline = reference_pipeline(model), fast_pipeline(model)
    found = pipeline.get_embeddings(TEXTS, LABELS)
    for text, labels, ours in zip(TEXTS, LABELS, found, strict=True):
        theirs = reference.get_embeddings([text], labels)[0]
        for key in ("logits", "text_embedding", "class_embeddings"):
            assert ours[key].shape == theirs[key].shape
            assert abs(ours[key] - theirs[key]).max() <= 1e-4 * max(1, abs(theirs[key]).max())


def test_lengths_around_every_boundary() -> None:
    """T = 1, 17, 63, 64, 65, 257 bytes of text: around buckets, the largest distance and the window."""
    for encoder in ("deberta-v2", "modernbert"):
        model = reference_model(encoder, scorer_type="mlp", pooling_strategy="avg")
        texts = ["x" * length for length in (1, 17, 63, 64, 65, 257)]
        labels = [["a", "b"]] * len(texts)
        expected = alone(reference_pipeline(model), texts, labels)
        for found, wanted in zip(fast_pipeline(model).get_embeddings(texts, labels), expected, strict=True):
            assert_same_logits(found["logits"], wanted)


def test_three_hundred_labels() -> None:
    model = reference_model(scorer_type="cross-attn", extract_text_features=True)
    labels = [f"l{number}" for number in range(300)]
    settings = {"max_length": 2048}
    expected = alone(reference_pipeline(model, **settings), ["a text"], [labels])[0]
    found = fast_pipeline(model, **settings).get_embeddings("a text", labels)[0]["logits"]
    assert_same_logits(found, expected)
