"""This module builds tiny models of every kind beside the uni-encoder."""

from __future__ import annotations

from typing import Any

import torch

from gliclass_fast import ZeroShotClassificationPipeline
from gliclass_fast.bench.gliznet_reference import Options
from tests.tiny import (
    BART,
    ENCODERS,
    QWEN3,
    fast_pipeline,
    label_tower,
    loaded,
    reference_model,
    tiny_gliznet,
    tokenizer_of,
)

# name -> (architecture, encoder, backbone options, GLiClass options)
GLICLASS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "bi-encoder": ("bi-encoder", "deberta-v2", {}, {}),
    "bi-encoder-fused": ("bi-encoder-fused", "bert", {}, {"scorer_type": "mlp"}),
    "decoder-kv": ("decoder-kv", "qwen3", QWEN3, {"recurrent_steps": 2}),
    "encoder-decoder, umT5": ("encoder-decoder", "umt5", {"num_decoder_layers": 3, **ENCODERS["t5"]}, {}),
    "encoder-decoder, BART": ("encoder-decoder", "bart", BART, {"scorer_type": "mlp"}),
    "encoder-decoder-cls, T5": ("encoder-decoder-cls", "t5", {"num_decoder_layers": 3}, {}),
    "encoder-decoder-cls, BART": ("encoder-decoder-cls", "bart", BART, {}),
}
GLIZNET = {
    "GliZNet A": Options("A", "cosine", projected=40, norms=True, lab_tokens=False),
    "GliZNet D": Options(),
}
KINDS = (*GLICLASS, *GLIZNET)


def reference(kind: str, **options: Any) -> Any:
    """Builds the reference model of a kind."""
    if kind in GLIZNET:
        return tiny_gliznet(GLIZNET[kind])
    architecture, encoder, backbone, own = GLICLASS[kind]
    tower = label_tower() if kind.startswith("bi-encoder") else {}
    return reference_model(encoder, backbone, architecture_type=architecture, **{**tower, **own, **options})


def pipeline(
    kind: str, dtype: torch.dtype = torch.float32, device: str = "cpu", backend: str | None = None
) -> ZeroShotClassificationPipeline:
    """Builds our pipeline over the weights of that model."""
    model = reference(kind)
    ours = loaded(model, dtype=dtype, device=device, backend=backend)
    return fast_pipeline(ours, tokenizer_of(model), max_length=512)
