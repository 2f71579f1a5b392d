"""Rotary position tables (Su et al., arXiv:2104.09864): they hold cos and sin for every position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.config import UnsupportedConfigError

ROTARY_LENGTH = 16384  # positions that have tables from the start; longer prompts get theirs when they come


def theta_of(parameters: Mapping[str, Any]) -> float:
    """Returns the base of a configuration's RoPE; raises UnsupportedConfigError where it has none."""
    theta = parameters.get("rope_theta")
    if not isinstance(theta, Real):
        raise UnsupportedConfigError(f"encoder_config: rope_theta={theta!r} is not a number")
    return float(theta)


class RotaryTable:
    """Holds cos and sin of position * frequency, as the working dtype rounds them.

    On a GPU they have that dtype, as its kernels read them once for every tile; on a CPU they are float32.
    """

    def __init__(self, frequencies: Sequence[float] | Tensor, like: Tensor, scale: float = 1.0) -> None:
        """Makes tables for ROTARY_LENGTH positions.

        Args:
            frequencies: radians per position, [D / 2].
            like: a tensor of the working dtype on the device.
            scale: a factor of both tables.
        """
        self._frequencies = torch.as_tensor(frequencies, dtype=torch.float32, device=like.device)
        self._rounded, self._scale = like.dtype, scale
        self._dtype = torch.float32 if like.device.type == "cpu" else like.dtype
        self.tables: dict[int, tuple[Tensor, Tensor]] = {}
        self(ROTARY_LENGTH)

    def __call__(self, length: int) -> tuple[Tensor, Tensor]:
        """Returns (cos, sin), [at least length, D / 2] each."""
        length = max(ROTARY_LENGTH, 1 << (length - 1).bit_length())
        if length not in self.tables:
            made = self._computed(torch.arange(length, device=self._frequencies.device))
            if self._frequencies.is_cuda:  # other streams read it from here on
                torch.cuda.current_stream(self._frequencies.device).synchronize()
            self.tables[length] = made
        return self.tables[length]

    def at(self, positions: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Returns (cos, sin), [T, D / 2] each, at positions [T] below `longest`.

        Streams go on for ever, so there are no tables beyond ROTARY_LENGTH for them.
        """
        if longest > ROTARY_LENGTH:
            return self._computed(positions)
        cos, sin = self(longest)
        return cos[positions], sin[positions]

    def _computed(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.float()[:, None] * self._frequencies
        cos, sin = self._scale * angles.cos(), self._scale * angles.sin()
        # the reference rounds both to the working dtype
        return cos.to(self._rounded).to(self._dtype), sin.to(self._rounded).to(self._dtype)
