"""The device and the libraries of a command: what is set before a model is loaded."""

from __future__ import annotations

import torch
import transformers

from gliclass_fast.cli.console import check_device
from gliclass_fast.runtime.device import resolve_device


def usable(device: str | None) -> torch.device:
    """Returns the device that --device means; without a GPU the CPU, with a warning where one was named.

    Raises ValueError for an unknown name.
    """
    check_device(device)
    return resolve_device(device, fall_back=True)


def quiet() -> None:
    """Turns off what transformers says and shows while it loads."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
