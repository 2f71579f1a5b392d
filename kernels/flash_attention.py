"""`attention` by the flash-attn package (Dao, arXiv:2307.08691): attention.py holds the contract.

`pip install "gliclass-fast[flash]"` installs the package. It runs on GPUs in 16 bit, for heads of up to 256
values in multiples of 8, without a distance bias, and only where `backend="flash"` asks for it.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from gliclass_fast.kernels._sequences import NO_POSITIONS, Positions, Sequences
from gliclass_fast.kernels.attention import rotated

DTYPES = (torch.float16, torch.bfloat16)


def unusable(device: torch.device, dtype: torch.dtype, head_width: int | None) -> str | None:
    """Returns why flash-attn cannot run, or None where it can."""
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed: pip install 'gliclass-fast[flash]'"
    if device.type != "cuda":
        return "flash-attn runs on GPUs"
    if dtype not in DTYPES:
        return f"flash-attn is for 16 bit, not {dtype}"
    if head_width is not None and (head_width > 256 or head_width % 8):
        return f"flash-attn is for heads of up to 256 in multiples of 8, not {head_width}"
    return None


def attention_flash(
    qkv: Tensor, sequences: Sequences, scale: float, positions: Positions = NO_POSITIONS
) -> Tensor:
    """Computes `attention`; raises ValueError where there is a distance bias."""
    from flash_attn import flash_attn_varlen_qkvpacked_func

    if positions.distance_bias is not None:
        raise ValueError("flash-attn adds no distance bias to scores; use another backend for this model")
    total, bounds, rotary = qkv.shape[0], sequences.bounds, positions.rotary
    row = torch.arange(total, dtype=torch.int32, device=qkv.device)
    if rotary is not None:
        owner = torch.searchsorted(bounds[1:].contiguous(), row, right=True)
        place = (row - bounds[owner.clamp(max=len(bounds) - 2)]).clamp(0, len(rotary[0]) - 1)
        cos, sin = (table[place][:, None] for table in rotary)
        q, k, v = qkv.unbind(1)
        qkv = torch.stack((rotated(q, cos, sin), rotated(k, cos, sin), v), dim=1)
    reach = -1 if positions.window is None else positions.window
    # No sequence is longer than `total` rows, and reading how long they really are would wait for the GPU.
    out = flash_attn_varlen_qkvpacked_func(
        qkv, bounds, total, softmax_scale=scale, window_size=(reach, reach)
    )
    known = row < bounds[-1]  # The package leaves other rows as they were.
    return torch.where(known[:, None], out.flatten(1), torch.zeros((), dtype=qkv.dtype, device=qkv.device))
