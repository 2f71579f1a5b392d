"""Swaps the engine into a `gliclass` pipeline that already exists."""

from __future__ import annotations

from typing import Any

from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
from gliclass_fast.pipeline import BasePipeline, ZeroShotClassificationPipeline


def accelerate(pipeline: Any) -> Any:
    """Makes an existing `gliclass` pipeline run on this engine, with its weights, device, dtype and settings.

    Takes a `ZeroShotClassificationPipeline`, whose inner pipeline is replaced, or a
    `ZeroShotClassificationWithChunkingPipeline`, whose calls are. Changes it in place and returns it.
    Settings are taken over now: setting an attribute of the old pipeline later has no effect.

    Raises TypeError for anything else.
    """
    if isinstance(pipeline, BasePipeline):
        return pipeline
    inner = getattr(pipeline, "pipe", pipeline)
    chunks = ("text_chunk_size", "text_chunk_overlap", "labels_chunk_size")
    if inner is pipeline and not all(hasattr(pipeline, name) for name in chunks):
        raise TypeError(
            "accelerate takes a gliclass ZeroShotClassificationPipeline or "
            f"ZeroShotClassificationWithChunkingPipeline, got {type(pipeline).__name__}"
        )
    settings = {
        "max_classes": inner.max_classes,
        "max_length": inner.max_length,
        "classification_type": inner.classification_type,
        "device": inner.device,
        "progress_bar": inner.progress_bar,
        "label_separator": inner.label_separator,
    }
    if inner is not pipeline:
        labels_tokenizer = getattr(inner, "labels_tokenizer", None)  # of a bi-encoder
        pipeline.pipe = ZeroShotClassificationPipeline(
            inner.model, inner.tokenizer, **settings, labels_tokenizer=labels_tokenizer
        )
        return pipeline
    settings |= {name: getattr(inner, name) for name in chunks}
    fast = ZeroShotClassificationWithChunkingPipeline(inner.model, inner.tokenizer, **settings)
    # a call is looked up on the class, so the object gets a class of its own
    accelerated = {"__call__": staticmethod(fast), "get_embeddings": staticmethod(fast.get_embeddings)}
    pipeline.__class__ = type(f"Accelerated{type(pipeline).__name__}", (type(pipeline),), accelerated)
    return pipeline
