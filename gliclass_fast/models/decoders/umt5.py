"""The decoder of umT5 (Chung et al., arXiv:2304.09151): T5's, with distance biases in every layer."""

from gliclass_fast.models.decoders.t5 import UNUSED, WEIGHTS, Config, Decoder

__all__ = ["UNUSED", "WEIGHTS", "Config", "Decoder"]
