"""Encoder-decoders give the reference's logits."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from gliclass_fast import UnsupportedConfigError
from gliclass_fast.models.configuration import read_config
from tests.pairwise import POOLED, Row, in_words, pairwise
from tests.parity import assert_parity
from tests.sentences import SHORT_LABELS, SHORT_TEXTS
from tests.tiny import BART, ENCODERS, SHOT, VECTOR_POOLINGS, fast_pipeline, reference_model

KINDS = ("encoder-decoder", "encoder-decoder-cls")
T5 = {"num_decoder_layers": 3}
BACKBONES = {"t5": ("t5", T5), "mt5": ("mt5", T5), "umt5": ("umt5", T5), "bart": ("bart", BART)}


def tiny(kind: str, backbone: str = "t5", **options: Any) -> Any:
    name, extra = BACKBONES[backbone]
    if name in ("mt5", "umt5"):
        extra = ENCODERS["t5"] | extra
    return reference_model(name, extra, architecture_type=kind, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_scorers_that_are_refused(kind: str) -> None:
    for scorer in {"encoder-decoder": ("hopfield",), "encoder-decoder-cls": ("hopfield", "cross-attn")}[kind]:
        with pytest.raises(UnsupportedConfigError, match=scorer):
            read_config(tiny(kind, scorer_type=scorer).config.to_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_text_and_labels_count(kind: str) -> None:
    pipeline = fast_pipeline(tiny(kind))
    [prompt] = pipeline.engine.encode(pipeline.prepare(SHORT_TEXTS[:1], ["a", "b"]).requests)
    assert prompt.label_prompt is not None
    _, (info,) = pipeline(SHORT_TEXTS[0], ["a", "b"], return_info=True)
    assert info.tokens == prompt.cost == len(prompt.token_ids) + len(prompt.label_prompt.token_ids)


def suits(row: Row) -> bool:
    return (row.get("kind"), row.get("scorer_type")) != ("encoder-decoder-cls", "cross-attn")


ROWS = pairwise(
    suits,
    together=[("kind", "backbone", "scorer_type")],
    kind=KINDS,
    backbone=tuple(BACKBONES),
    scorer_type=("simple", "weighted-dot", "mlp", "cross-attn"),
    **POOLED,
)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=in_words)
def test_options(row: Row) -> None:
    options = dict(row)
    kind, backbone, shot = (options.pop(name) for name in ("kind", "backbone", "shot"))
    model = tiny(kind, backbone, **options)
    assert_parity(model, **(SHOT if shot else {}))


@pytest.mark.parametrize("pooling", VECTOR_POOLINGS)
def test_poolings(pooling: str) -> None:
    assert_parity(tiny("encoder-decoder", scorer_type="mlp", pooling_strategy=pooling))


def test_lstm_and_calibrator() -> None:
    assert_parity(tiny("encoder-decoder", use_lstm=True, scorer_type="mlp", pooling_strategy="avg"))
    assert_parity(tiny("encoder-decoder-cls", use_calibrator=True))


@pytest.mark.parametrize(
    ("kind", "backbone", "backend"),
    [
        *product(KINDS, ("umt5", "bart"), ("onednn", "reference")),
        *zip(KINDS, ("umt5", "bart"), ("triton", "triton"), strict=True),  # its interpreter is slow
    ],
)
def test_backends(kind: str, backbone: str, backend: str) -> None:
    assert_parity(tiny(kind, backbone), SHORT_TEXTS, SHORT_LABELS, backend=backend)


def test_cuts_of_both_sequences_are_told_and_auto_fills_the_labels_own() -> None:
    pipeline = fast_pipeline(tiny("encoder-decoder"), max_length=40)
    _, (info,) = pipeline("t" * 50, ["a", "b"], prompt="p" * 60, return_info=True)
    assert info.tokens_cut == 50 - 38 + 60 - (40 - 2 - 4 - 1)
    labels = [f"label{number}" for number in range(4)]  # 4 * 7 tokens of 36
    _, (info,) = pipeline("a text", labels, labels_per_pass="auto", return_info=True)
    assert info.passes == 1


@pytest.mark.parametrize(
    ("option", "value"), [("squeeze_layers", True), ("encoder_layer_id", 1), ("use_segment_embeddings", True)]
)
def test_refused(option: str, value: Any) -> None:
    with pytest.raises(UnsupportedConfigError, match=option):
        read_config(tiny("encoder-decoder").config.to_dict() | {option: value})


@pytest.mark.parametrize("kind", KINDS)
def test_both_parts_may_have_words_of_their_own(kind: str) -> None:
    model = reference_model("bart", BART | {"tie_word_embeddings": False}, architecture_type=kind)
    assert_parity(model, SHORT_TEXTS, SHORT_LABELS)


def test_backbones_for_other_architectures() -> None:
    raw = tiny("encoder-decoder", "bart").config.to_dict()
    with pytest.raises(UnsupportedConfigError, match="bart"):
        read_config(raw | {"architecture_type": "uni-encoder"})
    raw = reference_model("bert").config.to_dict()
    with pytest.raises(UnsupportedConfigError, match="bert"):
        read_config(raw | {"architecture_type": "encoder-decoder"})
