"""BackboneConfig: it holds what the configurations of all backbones have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto import CONFIG_MAPPING

from gliclass_fast.config import UnsupportedConfigError, hf_activation, one_of

MOST_DISTANCE = 8192  # of two tokens, for which a backbone has tables, in every layer as wide as the model


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """Holds the options by Hugging Face's names, checked once and frozen."""

    positions_grow: ClassVar[bool] = False  # whether longer sequences work as well

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_width: int
    intermediate_size: int
    activation: str
    norm_eps: float
    max_positions: int | None  # tokens of the longest sequence, None where any length works

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type == "int" and not isinstance(value := getattr(self, field.name), int):
                raise UnsupportedConfigError(f"encoder_config: {field.name}={value!r} is not a whole number")
        if self.num_hidden_layers < 1:
            raise UnsupportedConfigError("encoder_config: a stack without layers is not supported")
        if (distance := getattr(self, "max_distance", 0)) > MOST_DISTANCE:
            raise UnsupportedConfigError(
                f"encoder_config: relative positions up to {distance} (max_relative_positions, or "
                "max_position_embeddings, or relative_attention_max_distance) are not supported; supported: "
                f"at most {MOST_DISTANCE}"
            )
        if self.max_positions is not None and self.max_positions < 1:
            raise UnsupportedConfigError(
                f"encoder_config.max_position_embeddings leaves {self.max_positions} tokens to a text"
            )

    @property
    def overflows_float16(self) -> bool:
        """Tells whether models of this kind are known to get beyond what float16 holds."""
        return False


def common_fields(
    hf: Any,
    activation: str = "hidden_act",
    intermediate_size: str = "intermediate_size",
    num_hidden_layers: str = "num_hidden_layers",
    num_attention_heads: str = "num_attention_heads",
    head_width: str | None = None,
) -> dict[str, Any]:
    """Returns the fields that most Hugging Face configurations share; other arguments name attributes.

    head_width: where a backbone's heads may have another width than hidden_size / heads.
    """
    heads, width = getattr(hf, num_attention_heads), getattr(hf, head_width or "", None)
    if not width and hf.hidden_size % heads:
        raise UnsupportedConfigError(
            f"encoder_config.{num_attention_heads}={heads} does not divide hidden_size={hf.hidden_size}"
        )
    return {
        "vocab_size": hf.vocab_size,
        "hidden_size": hf.hidden_size,
        "num_hidden_layers": getattr(hf, num_hidden_layers),
        "num_attention_heads": heads,
        "head_width": width or hf.hidden_size // heads,
        "intermediate_size": getattr(hf, intermediate_size),
        "activation": hf_activation(f"encoder_config.{activation}", getattr(hf, activation)),
    }


def refuse_causal(hf: Any, *options: str) -> None:
    """Raises UnsupportedConfigError where one of the options has tokens see those before them alone."""
    for option in options:
        if getattr(hf, option, False):
            raise UnsupportedConfigError(f"encoder_config.{option}=true is not supported; supported: false")


def backbone_of(
    raw: Mapping[str, Any], option: str, vocab_size: int | None, known: Sequence[str]
) -> tuple[str, Any]:
    """Returns a backbone's model type, one of `known`, and its config; else raises UnsupportedConfigError."""
    nested = dict(raw.get(option) or {})
    kind = "GliZNet" if option == "backbone_config" else "GLiClass"
    if not nested:
        raise UnsupportedConfigError(f"config.json has no {option!r}: this is not a {kind} checkpoint")
    model_type = nested.pop("model_type", "deberta-v2")
    one_of(f"{option}.model_type", model_type, known)
    if vocab_size is not None:
        nested["vocab_size"] = vocab_size
    try:
        return model_type, CONFIG_MAPPING[model_type](**nested)
    except (KeyError, TypeError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise UnsupportedConfigError(f"{option} is not a valid {model_type} config: {reason}") from None
