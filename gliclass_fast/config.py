"""ModelConfig: it holds what the engine reads from a checkpoint's config.json, checked once and frozen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ACTIVATION_OF_HF = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
POOLINGS = ("first", "last", "avg", "sum", "max", "rms", "abs_max", "abs_avg", "pass")
CLASS_TOKEN_POOLINGS = ("first", "average")


class UnsupportedConfigError(ValueError):
    """Reports that a checkpoint asks for something that the engine does not have, and lists what exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Describes a GLiClass checkpoint, by config.json's field names and with its defaults.

    Backbones have configurations of their own.
    """

    architecture_type: str
    model_type: str
    backbone_config: Any
    hidden_size: int
    vocab_size: int
    class_token_index: int
    text_token_index: int
    example_token_index: int
    scorer_type: str = "simple"
    pooling_strategy: str = "first"
    class_token_pooling: str = "first"
    embed_class_token: bool = True
    extract_text_features: bool = False
    prompt_first: bool = False
    normalize_features: bool = False
    projector_hidden_act: str = "gelu"
    scorer_num_heads: int = 16
    scorer_mlp_hidden_size: int = 1024
    use_lstm: bool = False
    squeeze_layers: bool = False
    encoder_layer_id: int = -1
    use_segment_embeddings: bool = False
    # the next nine are for `decoder-kv` alone
    sep_token_index: int = -1
    scorer_encoder_num_layers: int = 2
    recurrent_steps: int = 1
    recurrent_inference: bool = True
    recurrent_inference_max_steps: int = 0  # 0: as many as recurrent_steps
    recurrent_halt_threshold: float = 0.01  # 0: never halt
    recurrent_read_text: bool = False
    problem_type: str = "single_label_classification"
    multimodal: bool = False
    use_calibrator: bool = False
    calibrator_hidden_size: int = 256
    calibrator_beta_max: float = 3.0
    calibrator_use_bias: bool = False
    dtype: str | None = None  # the one that config.json asks to compute in
    decoder_config: Any = None  # for encoder-decoders only
    label_backbone_config: Any = None  # for bi-encoders only, as is the rest
    label_model_type: str | None = None
    label_model_name: str | None = None  # where the tokenizer of the label tower is


def refuse(config: Any, architecture_type: str, **supported: Any) -> None:
    """Raises UnsupportedConfigError for options that differ from the one value an architecture knows."""
    for option, value in supported.items():
        if getattr(config, option) != value:
            raise UnsupportedConfigError(
                f"{option}={getattr(config, option)!r} with architecture_type={architecture_type!r} is not "
                f"supported; supported: {value!r}"
            )


def dtype_name(dtype: Any) -> str | None:
    """Returns the name of a dtype without "torch.", or None for None."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


def hf_activation(option: str, name: str) -> str:
    """Returns our name of a Hugging Face activation; raises UnsupportedConfigError for an unknown one."""
    one_of(option, name, ACTIVATION_OF_HF)
    return ACTIVATION_OF_HF[name]


def one_of(option: str, value: Any, values: Iterable[Any]) -> None:
    """Raises UnsupportedConfigError, which lists the values, where `value` is none of them."""
    if value not in values:
        raise UnsupportedConfigError(
            f"{option}={value!r} is not supported; supported: {', '.join(map(str, values))}"
        )
