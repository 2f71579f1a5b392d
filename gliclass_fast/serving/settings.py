"""The settings of a service: what a person may set, with its default and its meaning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gliclass_fast.demo import PATH

_OPTIONS = {  # that set a limit, as a person knows them
    "labels": "max_labels", "queue_tokens": "--max-queue-tokens", "queue_texts": "queue_capacity",
    "seconds": "--timeout, request_timeout_s",
}  # fmt: skip
MOST_PORT = 65_535
BATCHES_WAITING = 8  # the queue holds so many batches of tokens unless a setting says otherwise


@dataclass(frozen=True, slots=True)
class Limits:
    """Holds the sizes above which a request is refused."""

    body_bytes: int = 4 * 1024 * 1024
    texts: int = 1024  # in one request
    characters: int = 200_000  # of one text with its labels, prompt and examples; the window cuts it before
    request_characters: int = 4_000_000  # of all texts, each with its labels, prompt and examples
    labels: int = 1000  # of one text
    queue_tokens: int | None = None  # that wait, and of one request; None: BATCHES_WAITING batches
    queue_texts: int = 4096  # that wait
    seconds: float = 30.0  # from the last byte of a request to its answer

    def __post_init__(self) -> None:
        """Raises ValueError where a limit would let nothing through."""
        for name, value in asdict(self).items():
            if value is not None and not 0 < value < math.inf:
                option = f" ({_OPTIONS[name]})" if name in _OPTIONS else ""
                raise ValueError(f"{name}{option} must be positive, not {value}")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Holds what `create_app` is made of."""

    model: str = str(PATH)  # a checkpoint folder or repository id; the demo checkpoint
    more_models: Mapping[str, str] = field(default_factory=dict)  # {name: folder or repository id}
    # LoRA adapters of `model`, {id: folder or repository id}, for requests that name one
    adapters: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None  # None: a GPU where there is one
    dtype: str | None = None  # None: 16 bit on a GPU, float32 on a CPU
    quantization: str | None = None
    max_length: int = 1024  # the window in tokens
    batch_tokens: int | None = None  # tokens of a batch; None: by device
    batch_texts: int = 256  # texts of a batch, at most
    threads: int | None = None  # of a CPU
    tokenizer_threads: int | None = None  # None: as threads
    warm_up: tuple[int, ...] | None = None  # tokens of batches that run before the start; None: by device
    threshold: float = 0.5  # where a request names none
    labels: Any = None  # for requests that name none: a list, or a nested dict
    api_keys: tuple[str, ...] = field(default=(), repr=False)  # none: everybody may ask
    route_prefix: str = "/gliclass"  # of the routes that gliclass's client asks
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Raises ValueError for a threshold that no request could name, and for a key that is empty."""
        if not all(self.api_keys):  # a request without a key would have it
            raise ValueError("an API key is empty")
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f"threshold (--threshold, default_threshold) must be from 0 to 1, not {self.threshold}"
            )


@dataclass(frozen=True, slots=True)
class Placement:
    """Holds where a service runs."""

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1  # on Ray Serve; each holds a model
    cpus: float = 1.0  # of a replica
    gpus: float | None = None  # of a replica; None: one where the device is a GPU
    ongoing_requests: int = 256  # that Ray sends to a replica at a time
    ray_address: str | None = None  # of a cluster; None: a local one is started

    def __post_init__(self) -> None:
        """Raises ValueError for an address that there is not, for which the system would take another one.

        For a host without a name it would take every address of the machine.
        """
        if not self.host.strip():
            raise ValueError("the host (--host) must be an address, as 127.0.0.1, or 0.0.0.0 for all of them")
        if not 0 <= self.port <= MOST_PORT:
            raise ValueError(f"a port is from 0 to {MOST_PORT}, not {self.port}")
