"""The error of every file and tensor that does not fit."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that is missing, truncated or does not fit; the message names the file or the tensors."""
