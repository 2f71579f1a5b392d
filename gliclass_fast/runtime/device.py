"""Devices: what a caller means by a name, a number, or nothing; and how many threads a CPU gives."""

from __future__ import annotations

import logging
import os
from numbers import Integral
from typing import Any

import torch

from gliclass_fast.ops import ORDER
from gliclass_fast.text.arguments import whole_number

logger = logging.getLogger(__name__)

MOST_THREADS = max(1024, os.cpu_count() or 1)  # a machine may use all its cores; more threads gain nothing


def resolve_device(device: Any = None, fall_back: bool = False) -> torch.device:
    """Returns the device that a caller means; a GPU has its number, so that equal devices compare equal.

    Args:
        device: a name, a torch.device, the number of a GPU (-1: the CPU), or None for the GPU where there is
            one.
        fall_back: a name or a number that this machine or the engine does not have gives the CPU, as in the
            reference's pipelines, and a warning; a torch.device never falls back.

    Raises ValueError for a device that the engine does not know, or for a GPU where there is none.
    """
    given = device
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(device, Integral) and not isinstance(device, bool):  # also a number of NumPy's
        device = f"cuda:{int(device)}" if int(device) >= 0 else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        if fall_back:
            return _cpu_for(device)
        raise ValueError(f"unknown device {device!r}; supported: {', '.join(ORDER)}") from None
    absent = found.type != "cuda" or not torch.cuda.is_available()
    if fall_back and absent and not isinstance(device, torch.device):
        return torch.device("cpu") if found.type == "cpu" else _cpu_for(given, found.type)
    if found.type not in ORDER:
        raise ValueError(f"device {str(found)!r} is not supported; supported: {', '.join(ORDER)}")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(found)!r}: this torch sees no GPU; give device='cpu'")
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return found


def use_threads(threads: int | None, of_tokenizers: int | None = None) -> None:
    """Sets how many threads of the CPU torch uses, and the tokenizers, unless they get another number.

    None leaves that to them. The tokenizers' number counts only before they first work.

    Raises ValueError for less than 1, and for more than MOST_THREADS: where the system refuses a thread, the
    process would end. Raises TypeError for what is no whole number.
    """
    for name, number in (("threads", threads), ("tokenizer_threads", of_tokenizers)):
        if number is not None:
            option = f"{name} (--{name.replace('_', '-')})"
            if whole_number(number, option) > MOST_THREADS:
                raise ValueError(f"{option} must be at most {MOST_THREADS} here, not {number}")
    if threads is not None:
        torch.set_num_threads(threads)
    if (number := threads if of_tokenizers is None else of_tokenizers) is not None:
        os.environ["RAYON_NUM_THREADS"] = str(number)


def _cpu_for(device: Any, kind: str = "") -> torch.device:
    """Returns the CPU, and warns that it stands in for a device of this kind ("" for a name without one)."""
    if kind in ORDER:
        logger.warning("device %r: this torch sees no GPU, so the model runs on the CPU", device)
    else:
        logger.warning(
            "device %r is none that the engine knows (%s): it runs on the CPU", device, ", ".join(ORDER)
        )
    return torch.device("cpu")
