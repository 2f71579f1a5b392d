"""CheckpointError: every file or tensor that does not fit raises it."""

from __future__ import annotations


class CheckpointError(ValueError):
    """Reports a checkpoint that is missing, truncated or does not fit, and names the file or the tensors."""
