"""Swaps the engine into a `gliclass` pipeline that already exists."""

from __future__ import annotations

from copy import copy
from typing import Any

from gliclass_fast import make_lazy
from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
from gliclass_fast.pipeline import BasePipeline, ZeroShotClassificationPipeline

_SETTINGS = ("max_classes", "max_length", "classification_type", "progress_bar", "label_separator")
_FIXED = ("label_token", "sep_token", "example_token")  # of ours: another value raises
_CHUNKS = ("text_chunk_size", "text_chunk_overlap", "labels_chunk_size")


def accelerate(pipeline: Any, **model_options: Any) -> Any:
    """Makes an existing `gliclass` pipeline run on this engine, with its weights, device, dtype and settings.

    It takes a `ZeroShotClassificationPipeline`, whose inner pipeline it replaces, an inner pipeline, or a
    `ZeroShotClassificationWithChunkingPipeline`. It changes the pipeline in place and returns it, an object
    of a class derived from the old one. What is set on the pipeline or trained in its model later counts
    from the next call on.

    model_options: those of `GLiClassModel.from_gliclass`: dtype, quantization, on_change and others.

    A pipeline that runs on this engine already stays as it is.

    Raises TypeError for anything else, for a class that has methods of its own for what the engine does, and
    for options of a pipeline that runs on this engine already.
    """
    inner = getattr(pipeline, "pipe", pipeline)
    if isinstance(inner, BasePipeline) or hasattr(inner, "_fast"):
        if model_options:
            raise TypeError(f"{sorted(model_options)} would change nothing: this pipeline runs on the engine")
        return pipeline
    if hasattr(inner, "active_sessions"):
        raise TypeError(
            f"accelerate does not take a {type(pipeline).__name__}, whose sessions hold what its own model "
            "read: make a gliclass_fast.StreamingZeroShotClassificationPipeline(model, tokenizer)"
        )
    if not all(hasattr(inner, name) for name in ("model", "tokenizer", "prepare_inputs", *_SETTINGS)):
        raise TypeError(
            "accelerate takes a gliclass ZeroShotClassificationPipeline or "
            f"ZeroShotClassificationWithChunkingPipeline, got {type(pipeline).__name__}"
        )
    if own := _own_methods(inner):
        raise TypeError(
            f"accelerate would leave out {type(inner).__name__}.{own[0]}: derive such a class from "
            "gliclass_fast's pipelines"
        )
    fast = _fast(inner, model_options)
    if inner is not pipeline:
        pipeline.pipe = fast
        return pipeline
    return _swap_in(pipeline, fast)


def _own_methods(inner: Any) -> list[str]:
    """Returns the methods of gliclass's class that an object, or a class derived from it, has of its own."""
    derived: list[Any] = []
    for kind in type(inner).__mro__:
        if kind.__module__.partition(".")[0] == "gliclass":
            names = [name for each in derived for name in vars(each)] + list(vars(inner))
            stock = [name for name in names if callable(getattr(kind, name, None))]
            return [name for name in stock if name == "__call__" or not name.startswith("__")]
        derived.append(kind)
    return []


def _fast(inner: Any, model_options: dict[str, Any]) -> BasePipeline:
    """Makes our pipeline of what an inner or chunking pipeline holds."""
    chunks = {name: getattr(inner, name) for name in _CHUNKS if hasattr(inner, name)}
    kind = ZeroShotClassificationWithChunkingPipeline if chunks else ZeroShotClassificationPipeline
    fast = kind(
        inner.model,
        inner.tokenizer,
        device=inner.device,
        labels_tokenizer=getattr(inner, "labels_tokenizer", None),  # only a bi-encoder has one
        **{name: getattr(inner, name) for name in _SETTINGS},
        **chunks,
        **model_options,
    )
    for name in _FIXED:  # raises AttributeError for another value
        setattr(fast, name, getattr(inner, name, getattr(fast, name)))
    return fast


class Accelerated:
    """Holds the methods of a pipeline whose calls our pipeline answers.

    Its class derives from the old one and has them too, as Python looks up a call on the class. It cannot
    derive from this one as well: an object keeps its layout.
    """

    _fast: Any
    _known: dict[str, Any]  # the attributes that our pipeline has by now

    def _settings(self) -> dict[str, Any]:
        names = (*_SETTINGS, *_FIXED, *_CHUNKS, "model", "tokenizer", "labels_tokenizer", "device")
        return {name: vars(self)[name] for name in names if name in vars(self)}

    def _in_step(self) -> Any:
        """Returns our pipeline, with what was set on this one since the last call."""
        for name, value in self._settings().items():
            if name not in self._known or value is not self._known[name]:
                setattr(self._fast, name, value)
        self._known = self._settings()
        return self._fast

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = self._in_step()(*args, **kwargs)
        for name in set(_CHUNKS) & set(vars(self)):  # chunk sizes of a call stay set
            setattr(self, name, getattr(self._fast, name))
        self._known = self._settings()
        return found

    def get_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        return self._in_step().get_embeddings(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Makes a copy of the old class, as the new one has no name that can be imported."""
        state = {name: value for name, value in vars(self).items() if name not in ("_fast", "_known")}
        return _restore, (type(self).__base__, state, copy(self._in_step()))


def _swap_in(pipeline: Any, fast: Any) -> Any:
    kind = type(pipeline)
    methods = {name: each for name, each in vars(Accelerated).items() if callable(each)}
    pipeline.__class__ = type(f"Accelerated{kind.__name__}", (kind,), methods)
    pipeline._fast = fast
    pipeline._known = pipeline._settings()
    return pipeline


def _restore(kind: Any, state: dict[str, Any], fast: Any) -> Any:
    pipeline = object.__new__(kind)
    vars(pipeline).update(state)
    return _swap_in(pipeline, fast)


make_lazy(__name__, call="accelerate:accelerate")  # `gliclass_fast.accelerate` is the function too
