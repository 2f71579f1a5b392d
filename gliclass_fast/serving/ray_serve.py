"""Ray Serve under the names of the reference's `gliclass.serve.server`: a service as a call of Python."""

from __future__ import annotations

import asyncio
import atexit
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

from gliclass_fast.serving.config import GLiClassServeConfig
from gliclass_fast.serving.errors import RequestError
from gliclass_fast.serving.python_values import as_json, plain_arguments
from gliclass_fast.serving.ray_application import application
from gliclass_fast.serving.ray_service import RayService, run_until_signal
from gliclass_fast.serving.sizes import is_per_text
from gliclass_fast.text.errors import WrongType, WrongValue

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

    One replica after another takes texts, so a list of many keeps all of them busy. Where nothing refers to
    it any more, and at the end of the process, it shuts down by itself.
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
        self._end = weakref.finalize(self, self._service.stop)
        # all finalizers share a hook, which may be older than Ray's: then it runs after that, without Ray
        self._end.atexit = False
        atexit.register(self._end)

    @property
    def handle(self) -> Any:
        """Returns Ray's handle of the service."""
        return self._service.handle

    def predict(
        self,
        texts: str | list[str],
        labels: Any,
        threshold: float | None = None,
        multi_label: bool | list[bool] = True,
        examples: list[Any] | None = None,
        prompt: str | list[str] | None = None,
        adapter_id: str | None = None,
    ) -> list[Any]:
        """Returns the predictions {"label", "score"} of a text, or such a list for each of several.

        labels, multi_label, examples, prompt: for all texts, or an entry per text; tuples and arrays count as
        lists. threshold: None is the configuration's. Raises RequestError, and WrongValue where there are not
        as many entries as texts.
        """
        arguments = plain_arguments(
            labels=labels, threshold=threshold, multi_label=multi_label, examples=examples, prompt=prompt,
            adapter_id=adapter_id,
        )  # fmt: skip
        if isinstance(texts, str):
            return _result(self.handle.predict.remote(texts, **arguments))
        results: list[Any] = []
        waiting: deque[Any] = deque()
        for part, part_arguments in parts(list(as_json(texts)), arguments):
            if len(waiting) == self._most_calls:
                results += _result(waiting.popleft())
            waiting.append(self.handle.predict.remote(part, **part_arguments))
        for call in waiting:
            results += _result(call)
        return results

    async def predict_async(self, *arguments: Any, **named: Any) -> list[Any]:
        """Does what `predict` does with the same arguments, without holding up the event loop."""
        return await asyncio.to_thread(self.predict, *arguments, **named)

    def shutdown(self) -> None:
        """Ends the service and the cluster that was started with it; a second call does nothing."""
        self._end()

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

    if not isinstance(config, GLiClassServeConfig):
        kind = type(config).__name__
        raise WrongType(f"config must be a GLiClassServeConfig, not {kind}: its from_mapping takes keys")
    return RayService(settings_of(config), replace(placement_of(config), host=host))


def parts(texts: list[str], arguments: Mapping[str, Any]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yields the texts of a call after another, with their arguments.

    Raises WrongValue where an argument has an entry per text, and not as many as there are texts.
    """
    own = [name for name, given in arguments.items() if is_per_text(name, given)]
    for name in own:
        if len(arguments[name]) != len(texts):
            raise WrongValue(
                f"{name} has one entry per text, and there are {len(texts)} texts and "
                f"{len(arguments[name])} entries"
            )
    for start in range(0, len(texts), TEXTS_A_CALL):
        part = slice(start, start + TEXTS_A_CALL)
        yield texts[part], {**arguments, **{name: arguments[name][part] for name in own}}


def _result(call: Any) -> list[Any]:
    """Returns what a replica returns, or raises its error as it was there, and not as Ray wraps it."""
    from ray.exceptions import RayTaskError

    try:
        found: list[Any] = call.result()
    except RayTaskError as error:
        if isinstance(error.cause, RequestError):
            raise error.cause from None
        raise
    return found
