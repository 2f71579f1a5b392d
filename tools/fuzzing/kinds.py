"""Tiny pipelines of every kind, which random requests are put to."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from gliclass_fast import ZeroShotClassificationWithChunkingPipeline
from tests import families
from tests.tiny import fast_pipeline, label_tower, loaded, reference_model, tokenizer_of

WINDOW = 384
UNI = {"class_token_pooling": "average", "use_segment_embeddings": True}
# name -> (backbone, options of the reference, how it is loaded)
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "labels first": (
        "deberta-v2", {**UNI, "scorer_type": "cross-attn", "extract_text_features": True}, {}
    ),
    "text first": (
        "deberta-v2", {**UNI, "prompt_first": False, "scorer_type": "mlp", "pooling_strategy": "avg"}, {}
    ),
    "ModernBERT": ("modernbert", {"scorer_type": "mlp"}, {}),
    "bi-encoder": ("bert", {"architecture_type": "bi-encoder", "pooling_strategy": "avg"}, {}),
    "bi-encoder-fused": ("bert", {"architecture_type": "bi-encoder-fused", "prompt_first": False}, {}),
    "encoder-decoder": ("t5", {"architecture_type": "encoder-decoder", "scorer_type": "cross-attn"}, {}),
    "encoder-decoder-cls": ("t5", {"architecture_type": "encoder-decoder-cls"}, {}),
    "bfloat16": ("modernbert", {"scorer_type": "mlp"}, {"dtype": torch.bfloat16}),
    "float16": ("deberta-v2", {"scorer_type": "weighted-dot"}, {"dtype": torch.float16}),
    "int8": ("deberta-v2", {"scorer_type": "mlp"}, {"quantization": "int8"}),
}  # fmt: skip
OTHERS = ("decoder-kv", "GliZNet A", "GliZNet D")  # of tests/families.py
CHUNKING = "chunking"  # the pipeline for long texts, over the first of MODELS
KINDS = (*MODELS, *OTHERS, CHUNKING)
ROUNDED = ("bfloat16", "float16", "int8")


@cache
def pipeline(kind: str) -> Any:
    """Builds the pipeline of a kind, with batches so small that requests need several."""
    sizes = {"max_length": WINDOW, "batch_tokens": 700}
    if kind in OTHERS:
        model = families.reference(kind)
        return fast_pipeline(model, tokenizer_of(model), **sizes)
    if kind == CHUNKING:
        inner = pipeline("labels first")
        return ZeroShotClassificationWithChunkingPipeline(
            inner.model, inner.tokenizer, text_chunk_size=60, text_chunk_overlap=10, labels_chunk_size=4,
            device="cpu", progress_bar=False, max_length=WINDOW, batch_tokens=700,
        )  # fmt: skip
    backbone, options, how = MODELS[kind]
    tower = label_tower("deberta-v2") if kind.startswith("bi-encoder") else {}
    model = reference_model(backbone, **tower, **options)
    return fast_pipeline(loaded(model, **how), tokenizer_of(model), **sizes)
