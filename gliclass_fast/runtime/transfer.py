"""Logits on their way from the device to the host: one copy per batch, which nobody has to wait for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PendingLogits:
    """Logits that a device may still be computing."""

    host: Tensor  # float32 [1 or 2, L], as `Output.stacked_logits` gives them
    copied: torch.cuda.Event | None  # None where the copy was made at once

    @classmethod
    def copy(cls, logits: Tensor) -> PendingLogits:
        """Orders the copy, on the current stream."""
        host = torch.empty(logits.shape, dtype=torch.float32, device="cpu", pin_memory=logits.is_cuda)
        host.copy_(logits, non_blocking=True)
        return cls(host, torch.cuda.current_stream(logits.device).record_event() if logits.is_cuda else None)

    def wait(self) -> np.ndarray:
        """The values, float32 [1 or 2, L], once they are there."""
        if self.copied is not None:
            self.copied.synchronize()
        values: np.ndarray = self.host.numpy()
        return values
