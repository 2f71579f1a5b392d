"""The names of `gliclass.serve.client`."""

from __future__ import annotations

from gliclass_fast.serving.client import AsyncGLiClassClient, GLiClassClient, ServeError

__all__ = ["AsyncGLiClassClient", "GLiClassClient", "ServeError"]
