"""Fast zero-shot text classification with GLiClass: the `gliclass` pipelines run on a packed engine."""

from gliclass_fast.accelerate import accelerate
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.pipeline import TextInfo, ZeroShotClassificationPipeline
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.streaming import StreamingZeroShotClassificationPipeline

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "GLiClassModel",
    "StreamingZeroShotClassificationPipeline",
    "TextInfo",
    "UnsupportedConfigError",
    "ZeroShotClassificationPipeline",
    "ZeroShotClassificationWithChunkingPipeline",
    "__version__",
    "accelerate",
]
