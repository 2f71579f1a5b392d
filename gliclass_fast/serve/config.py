"""The names of `gliclass.serve.config`."""

from __future__ import annotations

from gliclass_fast.serving.config import GLiClassServeConfig

__all__ = ["GLiClassServeConfig"]
