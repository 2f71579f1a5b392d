"""Bounds of config.json: which values an option may have at all, checked before anything is built of them.

A bound is far beyond every published model. It keeps a damaged or hostile file from taking memory or time
before its tensors, which the options must fit, are looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from transformers import PretrainedConfig

from gliclass_fast.config import UnsupportedConfigError

_VOCABULARY, _WIDTH, _LAYERS, _HEADS, _POSITIONS = 1 << 22, 1 << 17, 128, 1024, 1 << 20
_MARKERS = ("class_token_index", "text_token_index", "example_token_index", "sep_token_index")

# the least and the most of whole numbers, by name, at the top of config.json and in the backbones' options
_WHOLE: dict[str, tuple[int, int]] = {
    **dict.fromkeys(
        (
            "hidden_size", "d_model", "dim", "embedding_size", "intermediate_size", "d_ff", "hidden_dim",
            "encoder_ffn_dim", "decoder_ffn_dim", "head_dim", "d_kv", "attention_head_size",
            "scorer_mlp_hidden_size", "calibrator_hidden_size",
        ),
        (1, _WIDTH),
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers", "num_layers", "n_layers", "encoder_layers",
            "decoder_layers", "scorer_encoder_num_layers", "global_attn_every_n_layers",
        ),
        (1, _LAYERS),
    ),
    **dict.fromkeys(
        (
            "num_attention_heads", "num_heads", "n_heads", "encoder_attention_heads",
            "decoder_attention_heads", "num_key_value_heads", "scorer_num_heads", "conv_groups",
        ),
        (1, _HEADS),
    ),
    **dict.fromkeys(
        (
            "max_position_embeddings", "n_positions", "relative_attention_max_distance", "local_attention",
        ),
        (1, _POSITIONS),
    ),
    **dict.fromkeys(("position_buckets", "max_relative_positions"), (-1, _POSITIONS)),
    **dict.fromkeys(_MARKERS, (-1, _VOCABULARY + len(_MARKERS))),
    "num_decoder_layers": (0, _LAYERS),  # an encoder alone needs none
    "vocab_size": (1, _VOCABULARY),
    "pad_token_id": (-1, _VOCABULARY),
    "relative_attention_num_buckets": (2, _POSITIONS),
    "type_vocab_size": (0, 1024),
    "conv_kernel_size": (0, 1024),
    "num_labels": (0, 1 << 16),
    "encoder_layer_id": (-_LAYERS - 1, _LAYERS),
    "recurrent_steps": (1, 1024),
    "recurrent_inference_max_steps": (0, 1024),
}  # fmt: skip
_FINITE = (
    "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "rms_norm_eps", "calibrator_beta_max",
    "recurrent_halt_threshold",
)  # fmt: skip
_POSITIVE = (
    "rope_theta", "global_rope_theta", "local_rope_theta", "factor", "original_max_position_embeddings",
    "partial_rotary_factor", "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast",
    "beta_slow",
)  # fmt: skip
_ROPE = ("rope_parameters", "rope_scaling")
_DTYPES = ("dtype", "torch_dtype")
_BACKBONES = ("encoder_config", "label_model_config", "backbone_config")


def check_bounds(raw: Mapping[str, Any]) -> None:
    """Raises UnsupportedConfigError, which names the option, for a value that no model can have.

    null is left to whoever reads the option, where it stands for a default.
    """
    for place, option, value in _options(raw):
        if value is None:
            continue
        model_type = raw[place.split(".")[0]].get("model_type", "deberta-v2") if place else None
        if option in _WHOLE:
            least, most = _WHOLE[option]
            number = isinstance(value, Integral) and not isinstance(value, bool)
            if not number or not least <= value <= most:
                raise _refused(place + option, value, f"whole numbers from {least} to {most}", model_type)
        elif option in _FINITE or (option in _POSITIVE and (option.endswith("theta") or _of_rope(place))):
            number = isinstance(value, Real) and not isinstance(value, bool)
            fine = number and 0 <= value <= sys.float_info.max and (value > 0 or option in _FINITE)
            if not fine:
                which = "from 0 on" if option in _FINITE else "above 0"
                raise _refused(place + option, value, f"finite numbers {which}", model_type)
        elif option in _DTYPES and not isinstance(value, torch.dtype):
            name = value.removeprefix("torch.") if isinstance(value, str) else ""
            if name != "auto" and not isinstance(getattr(torch, name, None), torch.dtype):
                raise _refused(place + option, value, "the names of torch's dtypes", model_type)
        elif callable(getattr(PretrainedConfig, option, None)):
            raise UnsupportedConfigError(f"{place}{option} is no option of a checkpoint")


def _of_rope(place: str) -> bool:
    return any(part in _ROPE for part in place.split("."))


def _options(raw: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yields the options at the top and those of the backbones, each with its place and name."""
    for option, value in raw.items():
        if option in _BACKBONES and value is not None:
            if not isinstance(value, Mapping):
                raise _refused(option, value, "an object of options")
            yield from _nested(f"{option}.", value)
        else:
            yield "", option, value


def _nested(place: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yields the options of a backbone, and those of its RoPE, which may be by kinds of layers."""
    for option, value in options.items():
        yield place, option, value
        if isinstance(value, Mapping) and (option in _ROPE or place.count(".") > 1):
            yield from _nested(f"{place}{option}.", value)


def _refused(option: str, value: Any, supported: str, model_type: Any = None) -> UnsupportedConfigError:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    what = "supported" if model_type is None else f"a valid {str(model_type)[:40]} config"
    return UnsupportedConfigError(f"{option}={shown} in config.json is not {what}; supported: {supported}")
