"""XLM-RoBERTa (Conneau et al., arXiv:1911.02116): RoBERTa with a larger vocabulary."""

from gliclass_fast.models.encoders.roberta import UNUSED, WEIGHTS, Config, Encoder

__all__ = ["UNUSED", "WEIGHTS", "Config", "Encoder"]
