"""Ray Serve under the names of the reference's `gliclass.serve.server`: a service as a call of Python."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

from gliclass_fast.serving.config import GLiClassServeConfig
from gliclass_fast.serving.ray_application import application
from gliclass_fast.serving.ray_service import RayService, run_until_signal
from gliclass_fast.serving.sizes import are_per_text
from gliclass_fast.text.errors import WrongValue

__all__ = ["GLiClassFactory", "application", "serve_gliclass", "shutdown"]

TEXTS_A_CALL = 32
CALLS_A_REPLICA = 4  # that wait, so that a replica's batches are full
_running: list[RayService] = []  # what `serve_gliclass` started


def serve_gliclass(config: GLiClassServeConfig, blocking: bool = False, host: str = "127.0.0.1") -> Any:
    """Starts a service on Ray Serve and returns Ray's handle of it, whose `predict` is `Replica.predict`.

    blocking: returns only after SIGTERM or SIGINT, when all that waited is answered and the service has
    ended. Else `shutdown` ends it. Raises what `RayService.start` raises.
    """
    service = _service(config, host)
    if blocking:
        run_until_signal(service)
        return service.handle
    service.start()
    _running.append(service)
    return service.handle


def shutdown() -> None:
    """Ends what `serve_gliclass` started; does nothing where nothing runs."""
    while _running:
        _running.pop().stop()


class GLiClassFactory:
    """Holds a service on Ray Serve, from its start to `shutdown`; a `with` block does both.

    One replica after another takes texts, so a list of many keeps all of them busy. `predict` raises
    `RequestError`, which Ray wraps.
    """

    def __init__(
        self, model: str | None = None, *, config: GLiClassServeConfig | None = None, **kwargs: Any
    ) -> None:
        """Starts it. Takes a configuration, or else a model and further keys of one.

        Raises ArgumentError where neither or both are given, and what `RayService.start` raises.
        """
        if config is None:
            if model is None:
                raise WrongValue("give a model, or a config")
            config = GLiClassServeConfig(model=model, **kwargs)
        elif model is not None or kwargs:
            raise WrongValue("give a config, or a model with its keys, not both")
        self.config = config
        self._service = _service(config, "127.0.0.1")
        self._service.start()

    @property
    def handle(self) -> Any:
        """Returns Ray's handle of the service."""
        return self._service.handle

    def predict(
        self,
        texts: str | list[str],
        labels: Any,
        threshold: float | None = None,
        multi_label: bool = True,
        examples: list[dict[str, Any]] | None = None,
        prompt: str | list[str] | None = None,
        adapter_id: str | None = None,
    ) -> list[Any]:
        """Returns the predictions {"label", "score"} of a text, or such a list for each of several.

        labels: for all texts, or a list per text; prompt: likewise. threshold: None is the configuration's.
        """
        if isinstance(texts, str):
            one: list[Any] = self.handle.predict.remote(
                texts, labels, threshold, multi_label, examples, prompt, adapter_id
            ).result()
            return one
        results: list[Any] = []
        waiting: deque[Any] = deque()
        for part, part_labels, part_prompt in parts(list(texts), labels, prompt):
            if len(waiting) == self._most_calls:
                results += waiting.popleft().result()
            waiting.append(
                self.handle.predict.remote(
                    part, part_labels, threshold, multi_label, examples, part_prompt, adapter_id
                )
            )
        for call in waiting:
            results += call.result()
        return results

    async def predict_async(self, *arguments: Any, **named: Any) -> list[Any]:
        """Does what `predict` does with the same arguments, without holding up the event loop."""
        return await asyncio.to_thread(self.predict, *arguments, **named)

    def shutdown(self) -> None:
        """Ends the service and the cluster that was started with it; a second call does nothing."""
        self._service.stop()

    def __enter__(self) -> GLiClassFactory:
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        """Ends the service."""
        self.shutdown()

    @property
    def _most_calls(self) -> int:
        return CALLS_A_REPLICA * self.config.num_replicas


def _service(config: GLiClassServeConfig, host: str) -> RayService:
    from gliclass_fast.serving.from_config import placement_of, settings_of  # imports torch

    return RayService(settings_of(config), replace(placement_of(config), host=host))


def parts(texts: list[str], labels: Any, prompt: Any) -> Iterator[tuple[list[str], Any, Any]]:
    """Yields the texts of a call after another, with their labels and prompts."""
    own_labels = are_per_text(labels)
    if own_labels and len(labels) != len(texts):
        raise WrongValue(f"there are {len(texts)} texts and {len(labels)} lists of labels")
    own_prompts = isinstance(prompt, list)
    if own_prompts and len(prompt) != len(texts):
        raise WrongValue(f"there are {len(texts)} texts and {len(prompt)} prompts")
    for start in range(0, len(texts), TEXTS_A_CALL):
        part = slice(start, start + TEXTS_A_CALL)
        yield texts[part], labels[part] if own_labels else labels, prompt[part] if own_prompts else prompt
