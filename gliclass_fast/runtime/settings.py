"""Settings: they say how a network is to run, as the caller asked for it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from gliclass_fast.config import dtype_name
from gliclass_fast.ops import ROUNDED
from gliclass_fast.runtime.device import resolve_device

OLDER_NAMES = {"precision": "quantization"}
_AS_FLOAT32 = (None, "auto", "float32", "float")  # what dtypes are on a CPU


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
    record_others: bool = True  # as `GLiClassModel.warm_up` was told

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", resolve_device(self.device))
        if self.quantization not in (None, "int8"):
            raise ValueError(f"quantization {self.quantization!r} is not supported; supported: None, 'int8'")
        if self.backend in ROUNDED["bfloat16"]:  # int8 has some of them too
            raise ValueError("bfloat16 is asked for as dtype='bfloat16', without a backend")
        if self.backend in ROUNDED["int8"] or (self.quantization is not None and self.backend is not None):
            raise ValueError("int8 is asked for as quantization='int8', without a backend")
        if self.quantization is not None and self.device.type != "cpu":
            raise ValueError(f"quantization {self.quantization!r} runs on CPUs; give device='cpu'")
        if self.quantization is not None and dtype_name(self.dtype) not in _AS_FLOAT32:
            raise ValueError(
                f"quantization {self.quantization!r} computes in float32, not {self.dtype}: give one of "
                "dtype and quantization"
            )

    @property
    def wanted_dtype(self) -> torch.dtype | str | None:
        """Returns the dtype that is asked for; on a CPU "auto" is the default where int8 or a backend is."""
        chosen = self.device.type == "cpu" and (self.quantization or self.backend)
        return None if self.dtype == "auto" and chosen else self.dtype

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Reads keyword arguments, of which one may have an older name: the caller is warned of that.

        Raises TypeError for a name that does not exist.
        """
        names = [field.name for field in fields(cls)]
        if unknown := set(given) - {*names, *OLDER_NAMES}:
            raise TypeError(f"unexpected arguments {sorted(unknown)}; of a model: {', '.join(names)}")
        for old, name in OLDER_NAMES.items():
            if given.get(old) is not None:
                message = f"{old}= is now {name}=; the older name will go with the next minor version"
                warnings.warn(message, DeprecationWarning, stacklevel=_level_outside())
        return cls(
            **{OLDER_NAMES.get(name, name): value for name, value in given.items() if value is not None}
        )


def _level_outside() -> int:
    """Returns the stacklevel of a warning that is shown where the package was called."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("gliclass_fast"):
        level, frame = level + 1, frame.f_back
    return level
