"""Checkpoints: these modules read their folders, tensors and adapters."""
