"""The CPU kernel of csrc/cpu as PyTorch operations; contracts stand in attention.py and
disentangled_attention.py.

Float32, on as many threads as PyTorch uses, in the widest vectors the processor has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gliclass_fast.kernels._extension import address, extension
from gliclass_fast.kernels._triton import ceil_div

TILE_ROWS = 128


def instruction_set() -> tuple[int, int]:
    """The number the extension gives the processor's fastest one, and its floats per vector."""
    number, (_, lanes) = next(iter(extension().instruction_sets().items()))
    return number, lanes


def pack_distances_cpp(
    key_table: Tensor | None, query_table: Tensor | None, slots: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """[H, D, slots] -> [H, P, D, lanes]: P panels of one column per distance, lanes of them side by side.

    The first half of the panels is for negative distances, the first and the last hold one column over and
    over. Lanes are keys in the key table, whose distances are j - i, and queries in the query table: i - j.
    """
    return _panels(key_table, slots.flip(0)), _panels(query_table, slots)


def _panels(table: Tensor | None, slots: Tensor) -> Tensor | None:
    if table is None:
        return None
    heads, width, _ = table.shape
    _, lanes = instruction_set()
    reach = slots.numel() // 2
    side = (ceil_div(reach, lanes) + 1) * lanes
    distances = torch.arange(-side, side, device=slots.device).clamp_(-reach, reach)
    columns = table.index_select(2, slots[distances + reach])
    return columns.view(heads, width, -1, lanes).transpose(1, 2).contiguous()


@torch.library.custom_op("gliclass_fast::attention_cpu", mutates_args=(), device_types="cpu")
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Tensor,
    scale: float,
    cosines: Tensor | None = None,
    sines: Tensor | None = None,
    window: int | None = None,
    distance_bias: Tensor | None = None,
    key_table: Tensor | None = None,
    query_table: Tensor | None = None,
) -> Tensor:
    """q [R, H, D], k and v [T, H, D], where only the first dimension may be strided -> [R, H * D]."""
    count, heads, width = q.shape
    number, lanes = instruction_set()
    _check(q, k, v, tiles, cosines, sines, distance_bias, key_table, query_table, lanes)
    out = torch.empty(count, heads * width, dtype=torch.float32, device=q.device)
    table = query_table if key_table is None else key_table
    extension().attention_cpu(
        number, address(q), address(k), address(v), q.stride(0), k.stride(0), address(out),
        address(tiles), heads, width, scale, -1 if window is None else window,
        address(cosines), address(sines),
        address(distance_bias), 0 if distance_bias is None else distance_bias.shape[1] // 2,
        address(key_table), address(query_table), 0 if table is None else table.shape[1],
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Tensor,
    cosines: Tensor | None,
    sines: Tensor | None,
    distance_bias: Tensor | None,
    key_table: Tensor | None,
    query_table: Tensor | None,
    lanes: int,
) -> None:
    """Raises ValueError where the kernel would read something else than it is given."""
    width = q.shape[2]
    tables = [each for each in (cosines, sines, distance_bias, key_table, query_table) if each is not None]
    for each in (q, k, v, *tables):
        if each.dtype is not torch.float32:
            raise ValueError(f"needs float32, got {each.dtype}")
    if any(each.stride()[1:] != (width, 1) for each in (q, k, v)) or k.stride(0) != v.stride(0):
        raise ValueError("rows of q, k and v must be contiguous, k and v strided alike")
    if not all(each.is_contiguous() for each in tables):
        raise ValueError("tables must be contiguous")
    if any(each is not None and each.shape[1] != width // 2 for each in (cosines, sines)):
        raise ValueError(f"rotary tables must be {width // 2} wide")
    if any(each is not None and each.shape[2:] != (width, lanes) for each in (key_table, query_table)):
        raise ValueError("distance tables must be as `pack_distances_cpp` returned them")
    if tiles.dtype is not torch.int32 or not tiles.is_contiguous() or int(tiles[0, 1]) != TILE_ROWS:
        raise ValueError(f"tiles must be a contiguous int32 work list of {TILE_ROWS} rows per tile")


@_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Tensor,
    scale: float,
    cosines: Tensor | None = None,
    sines: Tensor | None = None,
    window: int | None = None,
    distance_bias: Tensor | None = None,
    key_table: Tensor | None = None,
    query_table: Tensor | None = None,
) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1] * q.shape[2])


def attention_cpp(
    qkv: Tensor,
    cu_seqlens: Tensor,
    tiles: Tensor,
    scale: float,
    rotary: tuple[Tensor, Tensor] | None = None,
    window: int | None = None,
    distance_bias: Tensor | None = None,
) -> Tensor:
    out: Tensor = _attention(*qkv.unbind(1), tiles, scale, *(rotary or (None, None)), window, distance_bias)
    return out


def cross_attention_cpp(
    q: Tensor, k: Tensor, v: Tensor, cu_labels: Tensor, text_spans: Tensor, tiles: Tensor
) -> Tensor:
    out: Tensor = _attention(q, k, v, tiles, q.shape[-1] ** -0.5)
    return out


def disentangled_attention_cpp(
    qkv: Tensor,
    key_table: Tensor | None,
    query_table: Tensor | None,
    slots: Tensor,
    cu_seqlens: Tensor,
    tiles: Tensor,
    scale: float,
    longest: int,
) -> Tensor:
    out: Tensor = _attention(*qkv.unbind(1), tiles, scale, key_table=key_table, query_table=query_table)
    return out
