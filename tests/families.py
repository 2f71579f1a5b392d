"""Tiny models of every kind beside the uni-encoder, each with its reference, on a device and in a dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.models.configuration import read_config
from gliclass_fast.models.gliznet.reference import GliZNet, Options
from gliclass_fast.text.gliznet_tokenizer import GliZNETTokenizer
from tests.accuracy import assert_same_logits, assert_sixteen_bit_logits
from tests.parity import reference_logits
from tests.sentences import LABELS, TEXTS
from tests.tiny import (
    BART,
    ENCODERS,
    backbone_config,
    byte_tokenizer,
    enlarge,
    reference_model,
    reference_pipeline,
)

# a label given twice, or none at all, says nothing here
DISTINCT = [list(dict.fromkeys(label or "empty" for label in own)) for own in LABELS]
Score = Callable[[torch.dtype, str], list[np.ndarray]]
# name -> (architecture, encoder, backbone options, GLiClass options)
GLICLASS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "bi-encoder": ("bi-encoder", "deberta-v2", {}, {}),
    "bi-encoder-fused": ("bi-encoder-fused", "bert", {}, {"scorer_type": "mlp"}),
    "encoder-decoder, umT5": ("encoder-decoder", "umt5", {"num_decoder_layers": 3, **ENCODERS["t5"]}, {}),
    "encoder-decoder, BART": ("encoder-decoder", "bart", BART, {"scorer_type": "mlp"}),
    # not umT5, whose decoder looks ahead in transformers 5.17
    "encoder-decoder-cls, T5": ("encoder-decoder-cls", "t5", {"num_decoder_layers": 3}, {}),
    "encoder-decoder-cls, BART": ("encoder-decoder-cls", "bart", BART, {}),
}
GLIZNET = {
    "GliZNet A": Options("A", "cosine", projected=40, norms=True, lab_tokens=False),
    "GliZNet D": Options(),
}
KINDS = (*GLICLASS, *GLIZNET)


def pipeline(
    kind: str, dtype: torch.dtype, device: str, folder: Path, backend: str | None = None
) -> tuple[ZeroShotClassificationPipeline, Score]:
    """Ours, and what the reference gives for TEXTS and DISTINCT in a dtype on a device."""
    if kind in GLIZNET:
        config, tensors, tokenizer, score = _gliznet(GLIZNET[kind])
    else:
        config, tensors, tokenizer, score = _gliclass(kind, folder)
    ours = GLiClassModel(config, tensors, kind, dtype=dtype, device=device, backend=backend)
    found = ZeroShotClassificationPipeline(
        ours, tokenizer, device=device, progress_bar=False, batch_tokens=256, max_length=512
    )
    return found, score


def check(kind: str, dtype: torch.dtype, device: str, folder: Path, backend: str | None = None) -> None:
    """float32: within 1e-4; 16-bit: the rule of `assert_sixteen_bit_logits`, both in a ragged batch."""
    ours, score = pipeline(kind, dtype, device, folder, backend)
    model = ours.model
    probed = model.loaded(model.loaded.pack(model.loaded.probe()))  # what a GPU is asked at load
    assert probed.stacked_logits().isfinite().all()
    found = [each["logits"] for each in ours.get_embeddings(TEXTS, DISTINCT)]
    exact = score(torch.float32, "cpu")
    if dtype is torch.float32:
        for mine, theirs in zip(found, exact, strict=True):
            assert_same_logits(mine, theirs)
    else:
        assert_sixteen_bit_logits(found, exact, score(dtype, device))


def _gliclass(kind: str, folder: Path) -> tuple[Any, Any, Any, Score]:
    architecture, encoder, backbone, options = GLICLASS[kind]
    if kind.startswith("bi-encoder"):
        byte_tokenizer().save_pretrained(folder)  # the reference loads the label tower's tokenizer by name
        tower = backbone_config("bert").to_dict()
        options = {"label_model_name": str(folder), "label_model_config": tower, **options}
    model = reference_model(encoder, backbone, architecture_type=architecture, **options)

    def score(dtype: torch.dtype, device: str) -> list[np.ndarray]:
        reference = reference_pipeline(model, max_length=512)
        reference.pipe.model.to(device=device, dtype=dtype)
        reference.pipe.device = torch.device(device)
        pairs = list(zip(TEXTS, DISTINCT, strict=True))
        return [reference_logits(reference, text, own)[: len(own)] for text, own in pairs]

    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return read_config(model.config.to_dict()), lambda: tensors, byte_tokenizer(), score


def _gliznet(options: Options) -> tuple[Any, Any, Any, Score]:
    torch.manual_seed(0)
    tokenizer = GliZNETTokenizer(byte_tokenizer(lab=True))
    model = GliZNet(backbone_config("bert", {"vocab_size": len(tokenizer)}), tokenizer.lab_token_id, options)
    enlarge(model)
    model.eval()

    @torch.no_grad()
    def score(dtype: torch.dtype, device: str) -> list[np.ndarray]:
        model.to(device=device, dtype=dtype)
        inputs = [tokenizer([pair]) for pair in zip(TEXTS, DISTINCT, strict=True)]
        moved = [{name: each.to(device) for name, each in batch.items()} for batch in inputs]
        return [model(**batch)[0].float().cpu().numpy() for batch in moved]

    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return read_config(model.config_json()), lambda: tensors, tokenizer, score
