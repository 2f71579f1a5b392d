"""Swaps the engine into a `gliclass` pipeline that already exists."""

from __future__ import annotations

from typing import Any

from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
from gliclass_fast.pipeline import ZeroShotClassificationPipeline


def accelerate(pipeline: Any) -> Any:
    """Makes an existing `gliclass` pipeline run on this engine, with its weights, device, dtype and settings.

    Takes a `ZeroShotClassificationPipeline`, whose inner pipeline is replaced, or a
    `ZeroShotClassificationWithChunkingPipeline`, whose calls are. Changes it in place and returns it.

    Raises TypeError for anything else.
    """
    inner = getattr(pipeline, "pipe", pipeline)
    if not all(hasattr(inner, name) for name in ("model", "tokenizer", "max_length", "classification_type")):
        raise TypeError(f"accelerate takes a gliclass pipeline, got {type(pipeline).__name__}")
    settings = {
        "max_classes": inner.max_classes,
        "max_length": inner.max_length,
        "classification_type": inner.classification_type,
        "device": inner.device,
        "progress_bar": inner.progress_bar,
        "label_separator": inner.label_separator,
    }
    if not hasattr(inner, "text_chunk_size"):
        pipeline.pipe = ZeroShotClassificationPipeline(inner.model, inner.tokenizer, **settings)
        return pipeline
    for name in ("text_chunk_size", "text_chunk_overlap", "labels_chunk_size"):
        settings[name] = getattr(inner, name)
    fast = ZeroShotClassificationWithChunkingPipeline(inner.model, inner.tokenizer, **settings)
    # a call is looked up on the class, so the object gets a class of its own
    accelerated = {"__call__": staticmethod(fast)}
    pipeline.__class__ = type(f"Accelerated{type(pipeline).__name__}", (type(pipeline),), accelerated)
    return pipeline
