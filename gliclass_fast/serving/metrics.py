"""The metrics of a service, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = tuple(2**power for power in range(17))


class Metrics:
    """Holds the metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def seconds(name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(f"gliclass_{name}_seconds", text, labels, registry=registry, buckets=SECONDS)

        def sizes(name: str, text: str) -> Histogram:
            return Histogram(f"gliclass_{name}", text, registry=registry, buckets=SIZES)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"gliclass_{name}_total", text, labels, registry=registry)

        self.request_seconds = seconds("request", "Seconds from a request to its answer.", ("route",))
        self.queue_seconds = seconds("queue", "Seconds that a request waited for its batch.")
        self.tokenize_seconds = seconds("tokenize", "Seconds that tokenising the prompts of a request took.")
        self.forward_seconds = seconds("forward", "Seconds that the forward pass of a batch took.")
        self.batch_tokens = sizes("batch_tokens", "Tokens of a batch.")
        self.batch_texts = sizes("batch_texts", "Texts of a batch.")
        self.queue_tokens = Gauge("gliclass_queue_tokens", "Tokens that wait.", registry=registry)
        self.texts = counter("texts", "Texts that were scored.")
        self.tokens_cut = counter("tokens_cut", "Tokens of texts that the window had no room for.")
        self.requests = counter("requests", "Requests that were answered.", ("route", "status"))
        self.rejected = counter("rejected", "Requests without scores, by error_type.", ("route", "reason"))

    def observe_batch(self, texts: int, tokens: int, seconds: float) -> None:
        """Counts a batch that ran."""
        self.batch_texts.observe(texts)
        self.batch_tokens.observe(tokens)
        self.forward_seconds.observe(seconds)
        self.texts.inc(texts)

    def exposition(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
