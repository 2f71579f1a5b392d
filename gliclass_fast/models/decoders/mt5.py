"""The decoder of mT5 (Xue et al., arXiv:2010.11934): T5's."""

from gliclass_fast.models.decoders.t5 import UNUSED, WEIGHTS, Config, Decoder

__all__ = ["UNUSED", "WEIGHTS", "Config", "Decoder"]
