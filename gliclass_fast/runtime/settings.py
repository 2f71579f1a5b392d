"""Settings: they say how a network is to run, as the caller asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gliclass_fast.runtime.device import resolve_device


@dataclass(frozen=True, slots=True)
class Settings:
    """Holds what `GLiClassModel.from_pretrained` describes under the same names.

    Raises ValueError for values that do not exist or that do not go together.
    """

    dtype: torch.dtype | str | None = None
    device: Any = None  # as `resolve_device` takes it; afterwards a torch.device
    backend: str | None = None
    cuda_graphs: bool = True
    quantization: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", resolve_device(self.device))
        if self.quantization not in (None, "int8"):
            raise ValueError(f"quantization {self.quantization!r} is not supported; supported: None, 'int8'")
        if self.backend == "int8" or (self.quantization is not None and self.backend is not None):
            raise ValueError("int8 is asked for as quantization='int8', without a backend")
        if self.quantization is not None and self.device.type != "cpu":
            raise ValueError(f"quantization {self.quantization!r} runs on CPUs; give device='cpu'")
