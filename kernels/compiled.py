"""Kernels of the compiled extension (csrc/) as PyTorch operations; contracts stand in the operations' files.

The extension knows nothing of PyTorch: it takes addresses, sizes and a stream.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gliclass_fast.kernels._triton import ceil_div, processors

try:
    from gliclass_fast.kernels import _compiled  # type: ignore[attr-defined]
except ImportError as error:
    _compiled, _import_error = None, error

DTYPES = (torch.float16, torch.bfloat16)
HEAD_WIDTH = 64
TILE_ROWS = 128


def absence() -> str | None:
    """Why there is no compiled extension, or None where there is one."""
    note = Path(__file__).with_name("_not_built.txt")
    if note.exists():  # also where an older one is still there
        return f"the compiled extension was not built: {note.read_text(encoding='utf-8').strip()}"
    return None if _compiled is not None else f"the compiled extension cannot be imported: {_import_error}"


def problem(device: torch.device) -> str | None:
    """Why a GPU does not take the compiled kernels (its driver is too old, say), or None where it does."""
    try:
        with torch.cuda.device(device):
            _compiled.check_device()
    except RuntimeError as error:
        return str(error)
    return None


def description() -> str:
    """What is there, in words."""
    if reason := absence():
        return reason
    major, minor = divmod(_compiled.cuda_version // 10, 100)
    names = ", ".join(f"sm_{name}" for name in _compiled.cuda_architectures.split())
    return f"CUDA {major}.{minor} for {names}"


@torch.library.custom_op("gliclass_fast::disentangled_attention", mutates_args=(), device_types="cuda")
def _disentangled_attention(
    qkv: Tensor,
    key_table: Tensor | None,
    query_table: Tensor | None,
    tiles: Tensor,
    reach: int,
    scale: float,
) -> Tensor:
    count, _, heads, width = qkv.shape
    if qkv.dtype not in DTYPES or width != HEAD_WIDTH:
        raise ValueError(f"needs 16 bit and heads {HEAD_WIDTH} wide, got {qkv.dtype} and {width}")
    qkv, tiles = qkv.contiguous(), tiles.contiguous()
    out = torch.empty(count, heads * width, dtype=qkv.dtype, device=qkv.device)
    # few queries: twice as many blocks of half the size
    rows = 64 if ceil_div(count, TILE_ROWS) * heads < processors(qkv.device) else TILE_ROWS
    _compiled.disentangled_attention(
        qkv.data_ptr(), _address(key_table), _address(query_table), tiles.data_ptr(), out.data_ptr(),
        heads, reach, scale, qkv.dtype is torch.bfloat16, rows,
        torch.cuda.current_stream(qkv.device).cuda_stream,
    )  # fmt: skip
    return out


@_disentangled_attention.register_fake
def _(
    qkv: Tensor,
    key_table: Tensor | None,
    query_table: Tensor | None,
    tiles: Tensor,
    reach: int,
    scale: float,
) -> Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[2] * qkv.shape[3])


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def disentangled_attention_cuda(
    qkv: Tensor,
    key_table: Tensor | None,
    query_table: Tensor | None,
    slots: Tensor,
    cu_seqlens: Tensor,
    tiles: Tensor,
    scale: float,
) -> Tensor:
    out: Tensor = _disentangled_attention(qkv, key_table, query_table, tiles, slots.numel() // 2, scale)
    return out
