"""The encoder of BART (Lewis et al., arXiv:1910.13461): it has BERT's layers, and positions from row 2 on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.models.backbone_config import common_fields, refuse_causal
from gliclass_fast.models.encoders import bert

FIRST_POSITION = 2
NORM_EPS = 1e-5
_PARTS = ("ffn_dim", "layers", "attention_heads")


def stack_weights(stack: str) -> dict[str, tuple[str, ...]]:
    """Returns the WEIGHTS of the encoder, or of what the decoder shares with it."""
    layer = f"{stack}.layers.{{i}}"
    return {
        "word_embeddings.weight": ("shared.weight",),
        "position_embeddings.weight": (f"{stack}.embed_positions.weight",),
        **affine(
            {
                "norm": f"{stack}.layernorm_embedding",
                "layers.{i}.qkv": [f"{layer}.self_attn.{part}_proj" for part in "qkv"],
                "layers.{i}.out": f"{layer}.self_attn.out_proj",
                "layers.{i}.attention_norm": f"{layer}.self_attn_layer_norm",
                "layers.{i}.up": f"{layer}.fc1",
                "layers.{i}.down": f"{layer}.fc2",
                "layers.{i}.output_norm": f"{layer}.final_layer_norm",
            }
        ),
    }


WEIGHTS = stack_weights("encoder")
UNUSED = ("encoder.embed_tokens.weight",)  # where it differs from `shared`, `shared` counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(bert.Config):
    embedding_scale: float


def config_from(hf: Any, stack: str = "encoder") -> Config:
    refuse_causal(hf, "is_causal")
    return Config(
        **common_fields(hf, "activation_function", *(f"{stack}_{part}" for part in _PARTS)),
        norm_eps=NORM_EPS,
        table_length=hf.max_position_embeddings + FIRST_POSITION,
        type_vocab_size=0,
        pad_token_id=hf.pad_token_id,
        max_positions=hf.max_position_embeddings,
        embedding_size=hf.d_model,
        embedding_scale=hf.d_model**0.5 if hf.scale_embedding else 1.0,
    )


class Encoder(bert.Encoder):
    config: Config

    def fold_weights(self) -> None:
        """Scales the word embeddings."""
        if self.config.embedding_scale == 1.0:  # both parts share those of the checkpoint
            return
        scaled = self.word_embeddings.weight * self.config.embedding_scale
        self.word_embeddings.weight = nn.Parameter(scaled, requires_grad=False)

    def position_rows(self, batch: PackedBatch, embedded: bool) -> Tensor:
        return batch.positions + FIRST_POSITION
