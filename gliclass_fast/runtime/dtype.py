"""The dtype of a model: it is what the caller asks for, else float32 on a CPU and 16 bit on a GPU.

"auto" is bfloat16 on a CPU that is faster in it.

float16 rounds eight times finer than bfloat16 and is the default where it suffices; it ends at 65504. A model
that gets there on a batch of random tokens, or whose family is known to get there, runs in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gliclass_fast.config import ModelConfig
from gliclass_fast.runtime.bfloat16 import is_faster

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
            backbone = config.backbone_config
            fast = asked == "auto" and is_faster(backbone.hidden_size, backbone.intermediate_size)
            return [torch.bfloat16 if fast else torch.float32]
        if asked is None:
            towers = filter(None, (config.backbone_config, config.label_backbone_config))
            overflows = any(tower.overflows_float16 for tower in towers)
            return [torch.bfloat16] if overflows else [torch.float16, torch.bfloat16]
        stored = (tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        named = None if config.dtype == "auto" else config.dtype
        asked = named or next(stored, torch.float32)
    return [supported_dtype(asked)]


def supported_dtype(asked: torch.dtype | str) -> torch.dtype:
    """Returns a dtype that is given as such or by one of torch's names; raises ValueError for any other."""
    dtype = getattr(torch, asked.removeprefix("torch."), None) if isinstance(asked, str) else asked
    if dtype is None or dtype not in DTYPES.values():
        raise ValueError(f"dtype {asked!r} is not supported; supported: {', '.join(DTYPES)}")
    return dtype
