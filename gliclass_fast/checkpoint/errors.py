"""CheckpointError: every file or tensor that does not fit raises it."""

from __future__ import annotations


class CheckpointError(ValueError):
    """Reports a checkpoint that is missing, truncated or does not fit, and names the file or the tensors."""


class MissingCheckpointError(CheckpointError, OSError):
    """Reports a checkpoint, or a file of it, that is neither here nor can be downloaded.

    It is an OSError too, as transformers raises one then and code that runs offline catches it.
    """
