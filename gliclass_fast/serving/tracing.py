"""Tracing: spans of OpenTelemetry for what happens to a request inside the service.

FastAPI makes the span of the request itself, as a child of what the caller's `traceparent` names. Nothing is
recorded unless the process has a tracer provider, as `opentelemetry-instrument` sets one up.
"""

from __future__ import annotations

import time

from opentelemetry import trace

from gliclass_fast.serving.batcher import Done

tracer = trace.get_tracer("gliclass_fast")
NANOSECONDS = 1_000_000_000


def record(done: list[Done], tokenize_seconds: float, total_seconds: float) -> None:
    """Adds spans for the prompts, the wait and the batch of the request that is answered just now.

    The last text that was answered stands for all texts of a request.
    """
    if not trace.get_current_span().is_recording() or not done:
        return
    last = max(done, key=lambda each: each.queue_seconds + each.forward_seconds)
    at = time.time_ns() - int(total_seconds * NANOSECONDS)
    tokens = sum(each.scored.tokens for each in done)
    for name, seconds, attributes in (
        ("gliclass.tokenize", tokenize_seconds, {"gliclass.texts": len(done), "gliclass.tokens": tokens}),
        ("gliclass.queue", last.queue_seconds, {}),
        ("gliclass.forward", last.forward_seconds, {"gliclass.batch_texts": last.batch_texts}),
    ):
        span = tracer.start_span(name, start_time=at, attributes=attributes)
        at += int(seconds * NANOSECONDS)
        span.end(at)
