"""Fast zero-shot text classification with GLiClass: the `gliclass` pipelines run on a packed engine."""

from typing import TYPE_CHECKING

from gliclass_fast.accelerate import accelerate
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.hugging_face import HuggingFacePipeline
from gliclass_fast.pipeline import TextInfo, ZeroShotClassificationPipeline
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.text.errors import ArgumentError

if TYPE_CHECKING:  # type checkers see the function, where Python has a module that can be called
    from gliclass_fast.hugging_face import pipeline as pipeline

__version__ = "0.1.0"
__all__ = [
    "ArgumentError",
    "CheckpointError",
    "GLiClassModel",
    "HuggingFacePipeline",
    "TextInfo",
    "UnsupportedConfigError",
    "ZeroShotClassificationPipeline",
    "ZeroShotClassificationWithChunkingPipeline",
    "__version__",
    "accelerate",
]
