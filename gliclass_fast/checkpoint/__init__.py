"""Folders, tensors and adapters of a checkpoint."""
