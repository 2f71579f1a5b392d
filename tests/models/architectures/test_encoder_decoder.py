"""Encoder-decoders against the reference at batch size 1."""

from __future__ import annotations

from typing import Any

import pytest

from gliclass_fast import GLiClassModel, UnsupportedConfigError
from gliclass_fast.models.configuration import read_config
from tests.accuracy import assert_same_logits
from tests.sentences import LABELS, TEXTS
from tests.tiny import (
    ALL_SCORERS,
    BART,
    ENCODERS,
    VECTOR_POOLINGS,
    alone,
    fast_pipeline,
    reference_model,
    reference_pipeline,
)

KINDS = ("encoder-decoder", "encoder-decoder-cls")
T5 = {"num_decoder_layers": 3}
BACKBONES = {"t5": ("t5", T5), "mt5": ("mt5", T5), "umt5": ("umt5", T5), "bart": ("bart", BART)}


def tiny(kind: str, backbone: str = "t5", **options: Any) -> Any:
    name, extra = BACKBONES[backbone]
    if name in ("mt5", "umt5"):
        extra = ENCODERS["t5"] | extra
    return reference_model(name, extra, architecture_type=kind, **options)


def check_parity(model: Any, count: int = len(TEXTS), backend: str | None = None, **arguments: Any) -> None:
    expected = alone(reference_pipeline(model), TEXTS[:count], LABELS[:count], **arguments)
    ours = GLiClassModel.from_gliclass(model, device="cpu", backend=backend)
    found = fast_pipeline(ours).get_embeddings(TEXTS[:count], LABELS[:count], **arguments)
    for each, wanted in zip(found, expected, strict=True):
        own = each["logits"]  # the reference adds empty slots up to max_num_classes
        assert_same_logits(own, wanted[: len(own)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("scorer", ALL_SCORERS)
def test_backbones_and_scorers(kind: str, backbone: str, scorer: str) -> None:
    if scorer == "hopfield" or (kind, scorer) == ("encoder-decoder-cls", "cross-attn"):
        with pytest.raises(UnsupportedConfigError, match=scorer):
            read_config(tiny(kind, backbone, scorer_type=scorer).config.to_dict())
        return
    check_parity(tiny(kind, backbone, scorer_type=scorer))


@pytest.mark.parametrize("pooling", VECTOR_POOLINGS)
def test_poolings(pooling: str) -> None:
    check_parity(tiny("encoder-decoder", scorer_type="mlp", pooling_strategy=pooling))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extract", [True, False])
@pytest.mark.parametrize("label_pooling", ["first", "average"])
@pytest.mark.parametrize("normalize", [True, False])
def test_switches(kind: str, extract: bool, label_pooling: str, normalize: bool) -> None:
    model = tiny(
        kind,
        extract_text_features=extract,
        class_token_pooling=label_pooling,
        normalize_features=normalize,
        embed_class_token=not normalize,
    )
    check_parity(model)
    check_parity(model, prompt="Task: ", examples=[{"text": "so good", "labels": ["x", "y"]}])


def test_lstm_and_calibrator() -> None:
    check_parity(tiny("encoder-decoder", use_lstm=True, scorer_type="mlp", pooling_strategy="avg"))
    check_parity(tiny("encoder-decoder-cls", use_calibrator=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", ["umt5", "bart"])
@pytest.mark.parametrize("backend", ["onednn", "reference", "triton"])
def test_backends(kind: str, backbone: str, backend: str) -> None:
    check_parity(tiny(kind, backbone), 3, backend)


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


def test_backbones_for_other_architectures() -> None:
    raw = tiny("encoder-decoder", "bart").config.to_dict()
    with pytest.raises(UnsupportedConfigError, match="bart"):
        read_config(raw | {"architecture_type": "uni-encoder"})
    raw = reference_model("bert").config.to_dict()
    with pytest.raises(UnsupportedConfigError, match="bert"):
        read_config(raw | {"architecture_type": "encoder-decoder"})
