"""umT5 (Chung et al., arXiv:2304.09151): T5 with distance biases in every layer."""

from gliclass_fast.models.encoders.t5 import UNUSED, WEIGHTS, Config, Encoder

__all__ = ["UNUSED", "WEIGHTS", "Config", "Encoder"]
