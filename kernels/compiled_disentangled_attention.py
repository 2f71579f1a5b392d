"""The CUDA kernel of csrc/cuda: contracts stand in disentangled_attention.py and adapted_attention.py."""

from __future__ import annotations

import torch
from torch import Tensor

from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._extension import address, extension
from gliclass_fast.kernels._sequences import TILE_ROWS, DistanceTables, Sequences
from gliclass_fast.kernels._triton import processors
from gliclass_fast.kernels.adapted_attention import with_whole_tables

DTYPES = (torch.float16, torch.bfloat16)
HEAD_WIDTH = 64
FEW_ROWS = 64  # queries of a block where blocks are few; a step has as many keys


def problem(device: torch.device) -> str | None:
    """Returns why a GPU does not take the compiled kernels (an old driver, say), or None where it does."""
    try:
        with torch.cuda.device(device):
            extension().check_device()
    except RuntimeError as error:
        return str(error)
    return None


def blocks(tokens: int, heads: int, longest: int, device: torch.device) -> tuple[int, int]:
    """Returns the queries of a block, and the shares of its warps among which its keys are divided.

    16 queries if a warp holds a sequence, 64 if blocks of 128 would be too few; two shares if blocks of 64
    may leave multiprocessors idle, and a sequence may have more than one step of keys.
    """
    if longest <= 16:
        return 16, 1
    if ceil_div(tokens, TILE_ROWS) * heads >= processors(device):
        return TILE_ROWS, 1
    idle = longest > FEW_ROWS and ceil_div(tokens, FEW_ROWS) * heads <= processors(device)
    return FEW_ROWS, 2 if idle else 1


def _attend(
    qkv: Tensor,
    key_table: Tensor | None,
    query_table: Tensor | None,
    tiles: Tensor,
    slots: Tensor | None,
    reach: int,
    scale: float,
    longest: int,
) -> Tensor:
    count, _, heads, width = qkv.shape
    if qkv.dtype not in DTYPES or width != HEAD_WIDTH:
        raise ValueError(f"needs 16 bit and heads {HEAD_WIDTH} wide, got {qkv.dtype} and {width}")
    qkv, tiles = qkv.contiguous(), tiles.contiguous()
    out = torch.empty(count, heads * width, dtype=qkv.dtype, device=qkv.device)
    rows, shares = blocks(count, heads, longest, qkv.device)
    stacked = query_table if key_table is None else key_table
    launch = extension().DisentangledAttention(
        qkv=address(qkv, "cuda"),
        key_table=address(key_table, "cuda"),
        query_table=address(query_table, "cuda"),
        tiles=address(tiles, "cuda"),
        slots=address(slots, "cuda"),
        out=address(out, "cuda"),
        heads=heads,
        reach=reach,
        held=0 if slots is None or stacked is None else len(stacked) - 1,
        parts=ceil_div(min(longest, TILE_ROWS), rows),
        scale=scale,
        bf16=qkv.dtype is torch.bfloat16,
        rows=rows,
        shares=shares,
        stream=torch.cuda.current_stream(qkv.device).cuda_stream,
    )
    extension().disentangled_attention_cuda(launch)
    return out


_operator = torch.library.custom_op(
    "gliclass_fast::disentangled_attention", _attend, mutates_args=(), device_types="cuda"
)


@_operator.register_fake
def _(qkv, *_):
    return qkv.new_empty(qkv.shape[0], qkv.shape[2] * qkv.shape[3])


def disentangled_attention_cuda(
    qkv: Tensor, sequences: Sequences, scale: float, tables: DistanceTables, slots: Tensor | None = None
) -> Tensor:
    """Computes `disentangled_attention`; slots: as in `disentangled_attention_triton`."""
    # An operator's dispatch takes longer than the launch, so only what traces or fakes the call passes it.
    watched = torch.compiler.is_compiling() or type(qkv) is not Tensor
    out: Tensor = (_operator if watched else _attend)(
        qkv, tables.key_table, tables.query_table, sequences.tiles, slots,
        tables.reach, scale, sequences.longest,
    )  # fmt: skip
    return out


adapted_attention_cuda = with_whole_tables(disentangled_attention_cuda)
