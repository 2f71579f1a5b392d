"""Fast zero-shot text classification with GLiClass: the `gliclass` pipelines run on a packed engine."""

from typing import TYPE_CHECKING

from gliclass_fast.lazy import make_lazy

if TYPE_CHECKING:
    from gliclass_fast.accelerate import accelerate
    from gliclass_fast.checkpoint.errors import CheckpointError
    from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
    from gliclass_fast.config import GLiClassModelConfig, UnsupportedConfigError
    from gliclass_fast.hugging_face import HuggingFacePipeline
    from gliclass_fast.hugging_face import pipeline as pipeline
    from gliclass_fast.model import (
        GLiClassBiEncoder,
        GLiClassEncoderDecoderCLS,
        GLiClassModel,
        GLiClassUniEncoder,
    )
    from gliclass_fast.pipeline import (
        BiEncoderZeroShotClassificationPipeline,
        UniEncoderZeroShotClassificationPipeline,
        ZeroShotClassificationPipeline,
    )
    from gliclass_fast.streaming import StreamingZeroShotClassificationPipeline
    from gliclass_fast.text.errors import ArgumentError
    from gliclass_fast.text.results import TextInfo

__version__ = "0.1.0"
__all__ = [
    "ArgumentError",
    "BiEncoderZeroShotClassificationPipeline",
    "CheckpointError",
    "GLiClassBiEncoder",
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

make_lazy(
    __name__,
    {
        "ArgumentError": "text.errors",
        "BiEncoderZeroShotClassificationPipeline": "pipeline",
        "CheckpointError": "checkpoint.errors",
        "GLiClassBiEncoder": "model",
        "GLiClassEncoderDecoderCLS": "model",
        "GLiClassModel": "model",
        "GLiClassModelConfig": "config",
        "GLiClassUniEncoder": "model",
        "HuggingFacePipeline": "hugging_face",
        "StreamingZeroShotClassificationPipeline": "streaming",
        "TextInfo": "text.results",
        "UniEncoderZeroShotClassificationPipeline": "pipeline",
        "UnsupportedConfigError": "config",
        "ZeroShotClassificationPipeline": "pipeline",
        "ZeroShotClassificationWithChunkingPipeline": "chunking",
    },
)
