"""mT5 (Xue et al., arXiv:2010.11934): T5 with a multilingual vocabulary."""

from gliclass_fast.models.encoders.t5 import UNUSED, WEIGHTS, Config, Encoder

__all__ = ["UNUSED", "WEIGHTS", "Config", "Encoder"]
