"""The reference's module path for serving, `gliclass.serve`; what it names is in `gliclass_fast.serving`.

What needs Ray is imported when it is asked for. Two names of the reference do not exist: see `server`.
"""

from __future__ import annotations

from typing import Any

from gliclass_fast.serve import server
from gliclass_fast.serve.client import GLiClassClient
from gliclass_fast.serve.config import GLiClassServeConfig

__all__ = ["GLiClassClient", "GLiClassFactory", "GLiClassServeConfig", "serve_gliclass", "shutdown"]


def __getattr__(name: str) -> Any:
    return server.of_module(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
