"""The names of `gliclass.serve.server`, which import Ray where they are first asked for."""

from __future__ import annotations

import dis
import importlib
import sys
from types import FrameType
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
    """Returns what a module of the reference calls `name`; an error says what to use instead.

    Raises AttributeError, or in an import statement ImportError, for a name that does not exist.
    """
    if name in WITH_RAY:
        return getattr(importlib.import_module("gliclass_fast.serving.ray_serve"), name)
    if name in INSTEAD:
        told = f"{module}.{name} does not exist here: {INSTEAD[name]}"
        if _is_import(sys._getframe(1).f_back):  # that of the module's `__getattr__` lies between
            raise ImportError(told, name=module)
        raise AttributeError(told)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def _is_import(caller: FrameType | None) -> bool:
    """Tells whether a frame runs `from module import name`.

    Python replaces an AttributeError there by an ImportError without its text, and lets every other error be.
    """
    return caller is not None and caller.f_code.co_code[caller.f_lasti] == dis.opmap["IMPORT_FROM"]


def __getattr__(name: str) -> Any:
    return of_module(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
