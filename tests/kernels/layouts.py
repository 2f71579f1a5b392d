"""What the cases of several operations share: sequences, their work lists, and norms the slow way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gliclass_fast.ops import Sequences
from gliclass_fast.runtime.packing import work_list

LENGTHS = [1, 17, 63, 130]
SPARE = 5  # rows of padding, which hold NaN and have to come out as zeros
HEADS, WIDTH = 2, 24


def cumulative(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def sequences(bounds: Tensor, keys: Tensor | None = None, spare: int = 0) -> Sequences:
    seen = torch.stack((bounds[:-1], bounds[1:]), dim=1) if keys is None else keys
    tiles = torch.from_numpy(work_list(bounds.numpy(), seen.numpy(), spare))
    return Sequences(bounds, keys, tiles, int(bounds.diff().max()))


def with_spare(rows: Tensor) -> Tensor:
    return torch.cat((rows, rows.new_full((SPARE, *rows.shape[1:]), float("nan"))))


def slow_norm(x: Tensor, weight: Tensor, bias: Tensor | None, rms: bool) -> Tensor:
    centred = x if rms else x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-7).sqrt() * weight.to(x.dtype)
    return scaled if bias is None else scaled + bias.to(x.dtype)
