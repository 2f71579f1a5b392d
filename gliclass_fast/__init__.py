"""Fast inference for GLiClass zero-shot text classification: the `gliclass` pipelines on a packed engine."""

from gliclass_fast.accelerate import accelerate
from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.model import GLiClassModel
from gliclass_fast.pipeline import TextInfo, ZeroShotClassificationPipeline
from gliclass_fast.version import __version__
from gliclass_fast.weights import CheckpointError

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
