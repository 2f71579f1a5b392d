"""The CUDA kernel of csrc/cuda as a PyTorch operation: its contract stands in disentangled_attention.py."""

from __future__ import annotations

import torch
from torch import Tensor

from gliclass_fast.kernels._extension import address, extension
from gliclass_fast.kernels._sequences import TILE_ROWS, DistanceTables, Sequences
from gliclass_fast.kernels._triton import ceil_div, processors

DTYPES = (torch.float16, torch.bfloat16)
HEAD_WIDTH = 64


def problem(device: torch.device) -> str | None:
    """Returns why a GPU does not take the compiled kernels (an old driver, say), or None where it does."""
    try:
        with torch.cuda.device(device):
            extension().check_device()
    except RuntimeError as error:
        return str(error)
    return None


def block_rows(tokens: int, heads: int, longest: int, device: torch.device) -> int:
    """Returns the queries of a block: 16 if a warp holds a sequence, 64 if blocks of 128 would be too few."""
    if longest <= 16:
        return 16
    return 64 if ceil_div(tokens, TILE_ROWS) * heads < processors(device) else TILE_ROWS


@torch.library.custom_op("gliclass_fast::disentangled_attention", mutates_args=(), device_types="cuda")
def _disentangled_attention(
    qkv: Tensor,
    key_table: Tensor | None,
    query_table: Tensor | None,
    tiles: Tensor,
    reach: int,
    scale: float,
    longest: int,
) -> Tensor:
    count, _, heads, width = qkv.shape
    if qkv.dtype not in DTYPES or width != HEAD_WIDTH:
        raise ValueError(f"needs 16 bit and heads {HEAD_WIDTH} wide, got {qkv.dtype} and {width}")
    qkv, tiles = qkv.contiguous(), tiles.contiguous()
    out = torch.empty(count, heads * width, dtype=qkv.dtype, device=qkv.device)
    rows = block_rows(count, heads, longest, qkv.device)
    launch = extension().DisentangledAttention(
        qkv=address(qkv, "cuda"),
        key_table=address(key_table, "cuda"),
        query_table=address(query_table, "cuda"),
        tiles=address(tiles, "cuda"),
        out=address(out, "cuda"),
        heads=heads,
        reach=reach,
        parts=ceil_div(min(longest, TILE_ROWS), rows),
        scale=scale,
        bf16=qkv.dtype is torch.bfloat16,
        rows=rows,
        stream=torch.cuda.current_stream(qkv.device).cuda_stream,
    )
    extension().disentangled_attention_cuda(launch)
    return out


@_disentangled_attention.register_fake
def _(qkv, *_):
    return qkv.new_empty(qkv.shape[0], qkv.shape[2] * qkv.shape[3])


def disentangled_attention_cuda(
    qkv: Tensor, sequences: Sequences, scale: float, tables: DistanceTables
) -> Tensor:
    out: Tensor = _disentangled_attention(
        qkv, tables.key_table, tables.query_table, sequences.tiles, tables.reach, scale, sequences.longest
    )
    return out
