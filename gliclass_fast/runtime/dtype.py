"""The dtype of a model: it is what the caller asks for, else float32 on a CPU and 16 bit on a GPU.

"auto" is bfloat16 on a CPU that is faster in it, else float32; on a GPU it is the checkpoint's own.

float16 rounds eight times finer than bfloat16 and is the default where it suffices; it ends at 65504. A model
that gets there on a batch of random tokens, or whose family is known to get there, runs in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gliclass_fast.config import ModelConfig
from gliclass_fast.ops import linear_is_faster_in_bfloat16, unavailable_reason
from gliclass_fast.runtime.settings import Settings

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}


def dtype_candidates(
    asked: torch.dtype | str | None,
    device: torch.device,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
) -> list[torch.dtype]:
    """Returns the dtypes to try in order, the last of which is taken without a trial.

    asked: a dtype, one of torch's names of it, as "half", or "auto". Raises ValueError for any other.
    """
    if asked is None or asked == "auto":
        if device.type == "cpu":
            sizes = config.backbone_config.hidden_size, config.backbone_config.intermediate_size
            fast = asked == "auto" and linear_is_faster_in_bfloat16(*sizes)
            return [torch.bfloat16 if fast else torch.float32]
        if asked is None:
            towers = filter(None, (config.backbone_config, config.label_backbone_config))
            overflows = any(tower.overflows_float16 for tower in towers)
            return [torch.bfloat16] if overflows else [torch.float16, torch.bfloat16]
        stored = (tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        named = None if config.dtype == "auto" else config.dtype
        asked = named or next(stored, torch.float32)
    return [supported_dtype(asked)]


def computing(dtype: torch.dtype, settings: Settings) -> tuple[torch.dtype, str | None]:
    """Returns the dtype in which a model of `dtype` computes, and how its backbone rounds.

    On a CPU bfloat16 is for factors of products, so that nothing overflows. A backend that is asked for, and
    torch where there are no compiled kernels, compute in bfloat16 throughout.
    """
    on_cpu = dtype is torch.bfloat16 and settings.device.type == "cpu"
    if on_cpu and settings.backend is None and unavailable_reason("bfloat16", "cpu") is None:
        return torch.float32, "bfloat16"
    return dtype, settings.quantization


def supported_dtype(asked: torch.dtype | str) -> torch.dtype:
    """Returns a dtype that is given as such or by one of torch's names; raises ValueError for any other."""
    dtype = getattr(torch, asked.removeprefix("torch."), None) if isinstance(asked, str) else asked
    if dtype is None or dtype not in DTYPES.values():
        raise ValueError(f"dtype {asked!r} is not supported; supported: {', '.join(DTYPES)}")
    return dtype
