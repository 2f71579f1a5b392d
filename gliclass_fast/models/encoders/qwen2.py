"""Qwen2 (Yang et al., arXiv:2407.10671) as an encoder: it is Llama with biases of queries, keys, values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.models.encoders import llama

WEIGHTS, UNUSED, Encoder = llama.WEIGHTS, llama.UNUSED, llama.Encoder


def refuse_sliding_window(hf: Any) -> None:
    """Raises UnsupportedConfigError where a layer sees a window of the text alone."""
    if hf.use_sliding_window or set(hf.layer_types) - {"full_attention"}:
        raise UnsupportedConfigError(
            f"encoder_config.use_sliding_window={hf.use_sliding_window} with layer_types "
            f"{sorted(set(hf.layer_types))} is not supported; supported: false, full_attention alone"
        )


def config_from(hf: Any) -> llama.Config:
    refuse_sliding_window(hf)
    return replace(llama.config_from(hf), qkv_bias=True, out_bias=False, mlp_bias=False)
