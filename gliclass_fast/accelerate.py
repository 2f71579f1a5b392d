"""Swaps the engine into a `gliclass` pipeline that already exists."""

from __future__ import annotations

from typing import Any

from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
from gliclass_fast.pipeline import BasePipeline, ZeroShotClassificationPipeline


def accelerate(pipeline: Any) -> Any:
    """Makes an existing `gliclass` pipeline run on this engine, with its weights, device, dtype and settings.

    It replaces the inner pipeline of a `ZeroShotClassificationPipeline`, or the calls of a
    `ZeroShotClassificationWithChunkingPipeline`. It changes the pipeline in place and returns it. It copies
    the settings now: an attribute that is set on the old pipeline later has no effect.

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
        labels_tokenizer = getattr(inner, "labels_tokenizer", None)  # only a bi-encoder has one
        pipeline.pipe = ZeroShotClassificationPipeline(
            inner.model, inner.tokenizer, **settings, labels_tokenizer=labels_tokenizer
        )
        return pipeline
    settings |= {name: getattr(inner, name) for name in chunks}
    fast = ZeroShotClassificationWithChunkingPipeline(inner.model, inner.tokenizer, **settings)
    # Python looks up a call on the class, so the object gets a class of its own
    accelerated = {"__call__": staticmethod(fast), "get_embeddings": staticmethod(fast.get_embeddings)}
    pipeline.__class__ = type(f"Accelerated{type(pipeline).__name__}", (type(pipeline),), accelerated)
    return pipeline
