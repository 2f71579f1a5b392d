"""The names of `gliclass.serve.server`, which import Ray where they are first asked for."""

from __future__ import annotations

import importlib
from typing import Any

WITH_RAY = ("GLiClassFactory", "serve_gliclass", "shutdown")
__all__ = [*WITH_RAY]

INSTEAD = {
    "GLiClassServer": "use gliclass_fast.ZeroShotClassificationPipeline in a process, "
    "gliclass_fast.serving.app.create_app for an application, or GLiClassFactory with Ray",
    "GLiClassMemoryEstimator": "no memory is estimated, as a batch is bounded by its tokens: "
    "set batch_tokens of gliclass_fast.serving.settings.ServeSettings",
}


def of_module(module: str, name: str) -> Any:
    """Returns what a module of the reference calls `name`.

    Raises AttributeError for a name that does not exist, and says what to use instead of one that the
    reference has.
    """
    if name in WITH_RAY:
        return getattr(importlib.import_module("gliclass_fast.serving.ray_serve"), name)
    if name in INSTEAD:
        raise AttributeError(f"{module}.{name} does not exist here: {INSTEAD[name]}")
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def __getattr__(name: str) -> Any:
    return of_module(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
