"""Fast zero-shot text classification with GLiClass: the `gliclass` pipelines run on a packed engine."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gliclass_fast.accelerate import accelerate
    from gliclass_fast.checkpoint.errors import CheckpointError
    from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
    from gliclass_fast.config import GLiClassModelConfig, UnsupportedConfigError
    from gliclass_fast.model import (
        GLiClassBiEncoder,
        GLiClassDecoderKV,
        GLiClassEncoderDecoderCLS,
        GLiClassModel,
        GLiClassUniEncoder,
    )
    from gliclass_fast.pipeline import (
        BiEncoderZeroShotClassificationPipeline,
        UniEncoderZeroShotClassificationPipeline,
        ZeroShotClassificationPipeline,
    )
    from gliclass_fast.pipeline.hugging_face import HuggingFacePipeline
    from gliclass_fast.pipeline.hugging_face import pipeline as pipeline
    from gliclass_fast.streaming import StreamingZeroShotClassificationPipeline
    from gliclass_fast.text.errors import ArgumentError
    from gliclass_fast.text.results import TextInfo

__version__ = "0.1.0"
__all__ = [
    "ArgumentError",
    "BiEncoderZeroShotClassificationPipeline",
    "CheckpointError",
    "GLiClassBiEncoder",
    "GLiClassDecoderKV",
    "GLiClassEncoderDecoderCLS",
    "GLiClassModel",
    "GLiClassModelConfig",
    "GLiClassUniEncoder",
    "HuggingFacePipeline",
    "StreamingZeroShotClassificationPipeline",
    "TextInfo",
    "UniEncoderZeroShotClassificationPipeline",
    "UnsupportedConfigError",
    "ZeroShotClassificationPipeline",
    "ZeroShotClassificationWithChunkingPipeline",
    "__version__",
    "accelerate",
]


def make_lazy(module: str, names: Mapping[str, str] | None = None, call: str | None = None) -> None:
    """Gives a module further names and a call.

    It imports a name when it is first asked for: torch takes seconds to import, which the command line's help
    does not need. And some names are modules and functions at once: `gliclass_fast.pipeline` is a module that
    people import from, and transformers' spelling of a call. Python lets a module change its class to a
    subclass of its own (see "Customizing module attribute access" in its reference); everything else of the
    module stays as it is.

    Args:
        module: its name, `__name__` where it calls this.
        names: the module of each further name, as "engine.engine" within the package.
        call: the function that a call of the module runs, as "pipeline.hugging_face:pipeline".
    """

    def found(place: str, name: str) -> Any:
        return getattr(importlib.import_module(f"{__name__}.{place}"), name)

    class LazyModule(ModuleType):
        """A module that imports what it is asked for."""

        def __getattr__(self, name: str) -> Any:
            if name in (names or {}):
                setattr(self, name, found((names or {})[name], name))
                return self.__dict__[name]
            if not name.startswith("_") and hasattr(self, "__path__"):
                try:
                    return importlib.import_module(f"{module}.{name}")
                except ModuleNotFoundError as error:
                    if error.name != f"{module}.{name}":  # the submodule exists, and lacks something
                        raise
            raise AttributeError(f"module {module!r} has no attribute {name!r}")

        def __dir__(self) -> list[str]:
            return sorted({*super().__dir__(), *(names or {})})

        def __reduce__(self) -> tuple[Any, ...]:
            """Makes a copy the module of that name, in another process too, as a copy of a function is."""
            return importlib.import_module, (module,)

    if call is not None:
        place, function = call.split(":")
        LazyModule.__call__ = lambda self, *args, **kwargs: found(place, function)(*args, **kwargs)  # type: ignore[method-assign]
    sys.modules[module].__class__ = LazyModule


make_lazy(
    __name__,
    {
        "ArgumentError": "text.errors",
        "BiEncoderZeroShotClassificationPipeline": "pipeline",
        "CheckpointError": "checkpoint.errors",
        "GLiClassBiEncoder": "model",
        "GLiClassDecoderKV": "model",
        "GLiClassEncoderDecoderCLS": "model",
        "GLiClassModel": "model",
        "GLiClassModelConfig": "config",
        "GLiClassUniEncoder": "model",
        "HuggingFacePipeline": "pipeline.hugging_face",
        "StreamingZeroShotClassificationPipeline": "streaming",
        "TextInfo": "text.results",
        "UniEncoderZeroShotClassificationPipeline": "pipeline",
        "UnsupportedConfigError": "config",
        "ZeroShotClassificationPipeline": "pipeline",
        "ZeroShotClassificationWithChunkingPipeline": "chunking",
    },
)
