"""Fast zero-shot text classification with GLiClass: the `gliclass` pipelines run on a packed engine.

A name is imported when it is first asked for, as torch takes seconds which the command line's help does not
need.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gliclass_fast.accelerate import accelerate
    from gliclass_fast.checkpoint.errors import CheckpointError
    from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
    from gliclass_fast.config import UnsupportedConfigError
    from gliclass_fast.pipeline import TextInfo, ZeroShotClassificationPipeline
    from gliclass_fast.runtime.model import GLiClassModel

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "GLiClassModel",
    "TextInfo",
    "UnsupportedConfigError",
    "ZeroShotClassificationPipeline",
    "ZeroShotClassificationWithChunkingPipeline",
    "__version__",
    "accelerate",
]
_MODULES = {
    "CheckpointError": "checkpoint.errors",
    "GLiClassModel": "runtime.model",
    "TextInfo": "pipeline",
    "UnsupportedConfigError": "config",
    "ZeroShotClassificationPipeline": "pipeline",
    "ZeroShotClassificationWithChunkingPipeline": "chunking",
    "accelerate": "accelerate",
}


class _Package(ModuleType):
    """Is this package: it imports what it is asked for."""

    def __getattr__(self, name: str) -> Any:
        """Returns a public name or a module of the package."""
        if name in _MODULES:
            setattr(self, name, getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name))
            return self.__dict__[name]
        if not name.startswith("_"):
            try:
                return importlib.import_module(f"{__name__}.{name}")
            except ModuleNotFoundError:
                pass
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Keeps the function `accelerate` where the import of its module would put the module."""
        if name == "accelerate" and isinstance(value, ModuleType):
            value = value.accelerate
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
