"""Streaming classification: texts arrive in chunks, and a session keeps what was already read."""

from gliclass_fast.streaming.cache import CacheState, create_empty_cache, truncate_cache
from gliclass_fast.streaming.pipeline import StreamingZeroShotClassificationPipeline
from gliclass_fast.streaming.strategies import (
    ClassificationStrategy,
    ComposedStrategy,
    EveryChunkStrategy,
    EveryNTokensStrategy,
    NeverStrategy,
    OnDelimiterStrategy,
    SlidingWindowStrategy,
)

__all__ = [
    "CacheState",
    "ClassificationStrategy",
    "ComposedStrategy",
    "EveryChunkStrategy",
    "EveryNTokensStrategy",
    "NeverStrategy",
    "OnDelimiterStrategy",
    "SlidingWindowStrategy",
    "StreamingZeroShotClassificationPipeline",
    "create_empty_cache",
    "truncate_cache",
]
