"""The names of `gliclass.model`: every architecture is a `GLiClassModel` here, and config.json says which."""

from __future__ import annotations

from gliclass_fast.config import GLiClassModelConfig
from gliclass_fast.runtime.forward import GLiClassOutput
from gliclass_fast.runtime.model import GLiClassModel

GLiClassPreTrainedModel = GLiClassBaseModel = GLiClassModel
GLiClassUniEncoder = GLiClassBiEncoder = GLiClassBiEncoderFused = GLiClassModel
GLiClassEncoderDecoder = GLiClassEncoderDecoderCLS = GLiClassDecoderKV = GLiClassModel

__all__ = [
    "GLiClassBaseModel",
    "GLiClassBiEncoder",
    "GLiClassBiEncoderFused",
    "GLiClassDecoderKV",
    "GLiClassEncoderDecoder",
    "GLiClassEncoderDecoderCLS",
    "GLiClassModel",
    "GLiClassModelConfig",
    "GLiClassOutput",
    "GLiClassPreTrainedModel",
    "GLiClassUniEncoder",
]
