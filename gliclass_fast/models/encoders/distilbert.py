"""DistilBERT (Sanh et al., arXiv:1910.01108): it is BERT without token types, with its own tensor names."""

from __future__ import annotations

from typing import Any

from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.models.backbone_config import common_fields, refuse_causal
from gliclass_fast.models.encoders import bert

_LAYER = "transformer.layer.{i}"
WEIGHTS = {
    "word_embeddings.weight": ("embeddings.word_embeddings.weight",),
    "position_embeddings.weight": ("embeddings.position_embeddings.weight",),
    **affine(
        {
            "norm": "embeddings.LayerNorm",
            "layers.{i}.qkv": [f"{_LAYER}.attention.{part}_lin" for part in "qkv"],
            "layers.{i}.out": f"{_LAYER}.attention.out_lin",
            "layers.{i}.attention_norm": f"{_LAYER}.sa_layer_norm",
            "layers.{i}.up": f"{_LAYER}.ffn.lin1",
            "layers.{i}.down": f"{_LAYER}.ffn.lin2",
            "layers.{i}.output_norm": f"{_LAYER}.output_layer_norm",
        }
    ),
}
UNUSED = ("embeddings.position_ids",)


def config_from(hf: Any) -> bert.Config:
    refuse_causal(hf, "is_causal")
    return bert.Config(
        **common_fields(hf, activation="activation", intermediate_size="hidden_dim"),
        norm_eps=1e-12,  # a constant of the reference
        table_length=hf.max_position_embeddings,  # the checkpoint holds it, learned or sinusoidal
        type_vocab_size=0,
        pad_token_id=hf.pad_token_id or 0,
        max_positions=hf.max_position_embeddings,
        embedding_size=hf.dim,
    )


Encoder = bert.Encoder
