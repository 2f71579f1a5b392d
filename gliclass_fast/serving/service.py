"""The service: models behind a batcher, which answers classifications from an event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from torch import OutOfMemoryError

from gliclass_fast import __version__
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.config import dtype_name
from gliclass_fast.engine.engine import Engine
from gliclass_fast.engine.scored import Prepared
from gliclass_fast.ops import SharedThreads
from gliclass_fast.pipeline import ZeroShotClassificationPipeline
from gliclass_fast.runtime.device import use_threads
from gliclass_fast.serving import tracing
from gliclass_fast.serving.batcher import Batcher, Done
from gliclass_fast.serving.errors import (
    DeadlinePassed,
    Draining,
    Invalid,
    QueueFull,
    RequestError,
    TooLarge,
    UnknownName,
)
from gliclass_fast.serving.metrics import Metrics
from gliclass_fast.serving.settings import BATCHES_WAITING, ServeSettings
from gliclass_fast.serving.sizes import checked_size
from gliclass_fast.text.errors import ArgumentError, LabelsDoNotFit
from gliclass_fast.text.results import CheckedCall, Scores

logger = logging.getLogger(__name__)

# the event loop itself reads requests up to so many characters: a thread would cost more than it saves
READ_AT_ONCE = 20_000
BASE_ADAPTER = "__base__"  # gliclass's id of the model without an adapter
READERS = 2  # threads that read larger ones
MOST_READ = 16  # larger ones that are read, or wait for it
POLL = 0.02  # seconds between two looks at whether all is answered
# tokens of the batches that run before the start: a GPU compiles and records what it needs for each
WARM_UP = {"cpu": (), "cuda": (128, 512, 2048, 8192)}

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """Holds the answer to one request, and how it came about."""

    call: CheckedCall
    done: list[Done]  # per text
    tokenize_seconds: float
    total_seconds: float

    @property
    def logits(self) -> list[Any]:
        """Returns float32 [1 or 2, labels] per text."""
        return [each.scored.logits for each in self.done]

    @property
    def results(self) -> list[Any]:
        """Returns what a call of the pipeline returns."""
        return self.call.answers(self.logits)

    @property
    def scores(self) -> list[Scores]:
        """Returns every score of every text."""
        return list(self.call.scores(self.logits))

    @property
    def tokens_cut(self) -> int:
        """Returns the tokens of all texts that the window had no room for."""
        return sum(each.scored.tokens_cut for each in self.done)

    @property
    def queue_seconds(self) -> float:
        """Returns how long the last of the texts waited."""
        return max((each.queue_seconds for each in self.done), default=0.0)

    @property
    def forward_seconds(self) -> float:
        """Returns how long the longest of its batches ran."""
        return max((each.forward_seconds for each in self.done), default=0.0)


class Service:
    """Answers classifications with one model or several, many at a time."""

    def __init__(self, settings: ServeSettings) -> None:
        """Loads the models and warms them up; raises what a pipeline raises where it cannot."""
        if reserved := {"", BASE_ADAPTER} & settings.adapters.keys():
            raise ValueError(
                f"the adapter in {settings.adapters[min(reserved)]!r} cannot have the id {min(reserved)!r}, "
                "which means no adapter: give it another id"
            )
        if settings.model in settings.more_models:
            raise ValueError(
                f"a further model has the name of the first, {settings.model!r}: give it another one"
            )
        use_threads(settings.threads, settings.tokenizer_threads)
        self.settings, self.metrics = settings, Metrics()
        self.pipeline = _loaded(settings, settings.model)
        for name, folder in settings.adapters.items():
            self.pipeline.load_adapter(name, folder)
        self._others = {name: _loaded(settings, model) for name, model in settings.more_models.items()}
        limits, budget = settings.limits, self.engine.batch_tokens
        self.queue_tokens = limits.queue_tokens or BATCHES_WAITING * budget  # that may wait
        threads = SharedThreads()
        shared = threads.can_be_shared and self.pipeline.model.loaded.ops.own_threads
        lanes, at_work = (2, threads.part) if shared else (1, nullcontext)
        self.batcher = Batcher(
            budget, settings.batch_texts, self.queue_tokens, limits.queue_texts, lanes, at_work
        )
        self.draining = False  # whether it is about to end
        self._answering = self._reading = 0  # requests
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="gliclass-reader")
        self.batcher.on_batch = self.metrics.observe_batch
        self.metrics.queue_tokens.set_function(lambda: self.batcher.queue_tokens)

    @property
    def engine(self) -> Engine:
        """Returns the engine of the model that answers where a request names none."""
        return self.pipeline.engine

    def information(self) -> dict[str, Any]:
        """Returns which model runs, where, with which defaults and within which limits, as JSON."""
        model, settings = self.pipeline.model, self.settings
        return {
            "name": "gliclass-fast", "version": __version__, "model": settings.model,
            "more_models": dict(settings.more_models),
            "architecture": model.loaded.config.architecture_type, "device": str(model.device),
            "dtype": dtype_name(model.loaded.dtype), "quantization": settings.quantization,
            "max_length": self.engine.window, "batch_tokens": self.engine.batch_tokens,
            "labels": settings.labels, "threshold": settings.threshold,
            "route_prefix": settings.route_prefix,
            "limits": {**asdict(settings.limits), "queue_tokens": self.queue_tokens},
        }  # fmt: skip

    def adapter_cache(self, adapter_id: str | None = None) -> dict[str, Any]:
        """Returns which adapters there are, and where one of them is, as gliclass's server does."""
        model = self.pipeline.model
        found: dict[str, Any] = {"enabled": bool(model.adapters), "base_adapter_id": BASE_ADAPTER}
        if not model.adapters:
            return found
        found["loaded"] = sorted(model.adapters)
        if adapter_id is not None:
            known = {each.id: each for each in model.adapters.described()}.get(adapter_id)
            found |= {"adapter_id": adapter_id, "cached": known is not None or adapter_id == BASE_ADAPTER}
            if known is not None:
                on_device = model.adapters[adapter_id] in model.loaded.adapter_slots
                found |= {"cpu_resident": known.in_memory, "gpu_resident": on_device}
        return found

    def start(self) -> None:
        """Starts to answer."""
        self.batcher.start()

    async def drain(self) -> None:
        """Takes no new requests, and waits until those that came before are answered."""
        self.draining = True
        while self._answering:
            await asyncio.sleep(POLL)
        self.batcher.close()
        while not self.batcher.ended:  # a thread that waited for it could not be given up
            await asyncio.sleep(POLL)

    def check_room(self) -> None:
        """Raises Draining or QueueFull where a request would not be let in, whatever it asks for."""
        if self.draining:
            raise Draining("the service is about to end, and takes no new requests", retry_after=1)
        self.batcher.check_room()

    async def answer(self, arguments: Mapping[str, Any], truncate: bool = True) -> Answer:
        """Returns the answer to a request; to cancel it takes its texts out of the queue.

        arguments: those of `ZeroShotClassificationPipeline.prepare`, and model and adapter_id, which may be
            missing or None.
        truncate: whether the window may cut a text.

        Raises RequestError, of the class that says why there is no answer.
        """
        self.check_room()
        self._answering += 1
        try:
            return await self._answer(dict(arguments), truncate)
        except LabelsDoNotFit as error:
            raise Invalid(f"{error.fault}. Send fewer or shorter labels in a request") from None
        except ArgumentError as error:
            raise Invalid(str(error)) from None
        except CheckpointError as error:
            logger.error("an adapter cannot be read: %s", error)
            raise UnknownName(str(error)) from None
        except FloatingPointError as error:
            logger.error("a text has no finite scores: %s", error)
            raise RequestError("the model gave values that are not finite; the log has more") from None
        except OutOfMemoryError:
            raise TooLarge("the device has no memory for a text of this length with these labels") from None
        finally:
            self._answering -= 1

    async def _answer(self, arguments: dict[str, Any], truncate: bool) -> Answer:
        start = time.monotonic()
        adapter = arguments.pop("adapter_id", None)
        pipeline = self._pipeline(arguments.pop("model", None))
        if adapter not in (None, BASE_ADAPTER):
            if adapter not in pipeline.model.adapters:
                known = sorted(pipeline.model.adapters)
                raise UnknownName(f"there is no adapter {adapter!r}; there are {known}")
            arguments["adapter_ids"] = adapter
        if arguments["labels"] is None:
            arguments["labels"] = self.settings.labels
        if arguments["labels"] is None:
            raise Invalid("give labels: this service has none of its own")
        size = checked_size(arguments, self.settings.limits)
        if size <= READ_AT_ONCE and pipeline.labels_tokenizer is None:  # else the network reads the labels
            call, prepared = _read(pipeline, arguments, truncate)
        else:
            work = self._read_aside(pipeline, arguments, truncate)
            [(call, prepared)] = await self._results([work], start)
        read = time.monotonic() - start
        texts = self.batcher.submit(pipeline.engine.score_prepared, prepared)
        done = await self._results(texts, start)
        found = Answer(call, done, read, time.monotonic() - start)
        self._observe(found)
        return found

    async def _results(self, futures: Sequence[asyncio.Future[Result]], start: float) -> list[Result]:
        """Returns the results of the parts of a request that came at `start`.

        Raises the error of a part as soon as one fails, of several that of the first in order, and
        DeadlinePassed. Then, and where the client leaves, the parts that nobody waits for are cancelled.
        """
        if not futures:
            return []
        seconds = self.settings.limits.seconds
        left = max(0.0, start + seconds - time.monotonic())
        try:
            _, late = await asyncio.wait(futures, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            errors = [each.exception() for each in futures if not each.cancel() and not each.cancelled()]
        if failed := [error for error in errors if error is not None]:
            raise failed[0]
        if late:
            raise DeadlinePassed(f"no answer within {seconds:g} s")
        return [each.result() for each in futures]

    def _read_aside(
        self, pipeline: ZeroShotClassificationPipeline, arguments: dict[str, Any], truncate: bool
    ) -> asyncio.Future[tuple[CheckedCall, list[Prepared]]]:
        """Reads a large request in a thread; raises QueueFull where many are read or wait for it."""
        if self._reading == MOST_READ:
            raise QueueFull(f"{MOST_READ} large requests are read already: try again later", retry_after=1)
        self._reading += 1
        work = asyncio.get_running_loop().run_in_executor(self._readers, _read, pipeline, arguments, truncate)
        work.add_done_callback(self._has_read)  # also where nobody waits for it any more
        return work

    def _has_read(self, _: Any) -> None:
        self._reading -= 1

    def _pipeline(self, name: str | None) -> ZeroShotClassificationPipeline:
        """Returns the pipeline of a model, by its name; raises UnknownName."""
        if name is None or name == self.settings.model:
            return self.pipeline
        if name not in self._others:
            raise UnknownName(f"there is no model {name!r}; there are {sorted(self._others)}")
        return self._others[name]

    def _observe(self, answer: Answer) -> None:
        tracing.record(answer.done, answer.tokenize_seconds, answer.total_seconds)
        self.metrics.tokenize_seconds.observe(answer.tokenize_seconds)
        self.metrics.queue_seconds.observe(answer.queue_seconds)
        if cut := answer.tokens_cut:
            self.metrics.tokens_cut.inc(cut)


def _read(
    pipeline: ZeroShotClassificationPipeline, arguments: dict[str, Any], truncate: bool
) -> tuple[CheckedCall, list[Prepared]]:
    call = pipeline.prepare(**arguments)
    prepared = pipeline.engine.prepare(call.requests)
    if not truncate and (cut := max((each.tokens_cut for each in prepared), default=0)):
        raise TooLarge(f"a text is {cut} tokens too long for the window, and truncate is false")
    return call, prepared


def _loaded(settings: ServeSettings, model: str) -> ZeroShotClassificationPipeline:
    """Returns a model, warmed up, behind its pipeline."""
    pipeline = ZeroShotClassificationPipeline(
        model, max_length=settings.max_length, device=settings.device, progress_bar=False,
        batch_tokens=settings.batch_tokens, on_truncation="ignore", dtype=settings.dtype,
        quantization=settings.quantization,
    )  # fmt: skip
    pipeline.model.on_change = "ignore"  # Nobody else has the model; to look takes a part of every request.
    sizes = WARM_UP[pipeline.device.type] if settings.warm_up is None else settings.warm_up
    pipeline.model.warm_up(sizes)
    labels = ["a label"] if settings.labels is None else settings.labels
    pipeline("a text", labels, threshold=settings.threshold)
    return pipeline
