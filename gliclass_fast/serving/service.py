"""The service: models behind a batcher, which answers classifications from an event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import OutOfMemoryError

from gliclass_fast import __version__
from gliclass_fast.engine.engine import Engine, Prepared
from gliclass_fast.pipeline import ZeroShotClassificationPipeline
from gliclass_fast.serving import tracing
from gliclass_fast.serving.batcher import Batcher, Done
from gliclass_fast.serving.errors import DeadlinePassed, Invalid, RequestError, TooLarge, UnknownName
from gliclass_fast.serving.metrics import Metrics
from gliclass_fast.serving.settings import BATCHES_WAITING, Limits, ServeSettings
from gliclass_fast.text.errors import ArgumentError
from gliclass_fast.text.results import Classification, Scores

logger = logging.getLogger(__name__)

# the event loop itself reads requests up to so many characters: a thread would cost more than it saves
READ_AT_ONCE = 20_000
# tokens of the batches that run before the start: a GPU compiles and records what it needs for each
WARM_UP = {"cpu": (), "cuda": (128, 512, 2048, 8192)}


@dataclass(frozen=True, slots=True)
class Answer:
    """Holds the answer to one request, and how it came about."""

    call: Classification
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
        return self.call.scores(self.logits)

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
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        if settings.tokenizer_threads is not None:  # tokenizers read it before they first work
            os.environ["RAYON_NUM_THREADS"] = str(settings.tokenizer_threads)
        self.settings, self.metrics = settings, Metrics()
        self.pipeline = _loaded(settings, settings.model)
        self._others = {name: _loaded(settings, model) for name, model in settings.more_models.items()}
        limits, budget = settings.limits, self.engine.batch_tokens
        queue_tokens = limits.queue_tokens or BATCHES_WAITING * budget
        self.batcher = Batcher(budget, settings.batch_texts, queue_tokens, limits.queue_texts)
        self.batcher.on_batch = self.metrics.observe_batch
        self.metrics.queue_tokens.set_function(lambda: self.batcher.queue_tokens)

    @property
    def engine(self) -> Engine:
        """Returns the engine of the model that answers where a request names none."""
        return self.pipeline.engine

    def information(self) -> dict[str, Any]:
        """Returns which model runs, where, and within which limits, as JSON."""
        model, settings = self.pipeline.model, self.settings
        return {
            "name": "gliclass-fast", "version": __version__, "model": settings.model,
            "more_models": dict(settings.more_models),
            "architecture": model.loaded.config.architecture_type, "device": str(model.device),
            "dtype": str(model.loaded.dtype).removeprefix("torch."), "quantization": settings.quantization,
            "max_length": self.engine.window, "batch_tokens": self.engine.batch_tokens,
            "labels": settings.labels, "route_prefix": settings.route_prefix,
            "limits": asdict(settings.limits),
        }  # fmt: skip

    def start(self) -> None:
        """Starts to answer."""
        self.batcher.start()

    async def drain(self) -> None:
        """Takes no new requests, and waits until those that wait are answered."""
        self.batcher.close()
        await asyncio.to_thread(self.batcher.join)

    async def answer(self, arguments: Mapping[str, Any], truncate: bool = True) -> Answer:
        """Returns the answer to a request; to cancel it takes its texts out of the queue.

        arguments: those of `ZeroShotClassificationPipeline.prepare`, and model and adapter_id, which may be
            missing or None.
        truncate: whether the window may cut a text.

        Raises RequestError, of the class that says why there is no answer.
        """
        start = time.monotonic()
        self.batcher.check_room()
        arguments = dict(arguments)
        if (adapter := arguments.pop("adapter_id", None)) is not None:
            raise UnknownName(f"there is no adapter {adapter!r}: this service has none")
        pipeline = self._pipeline(arguments.pop("model", None))
        if arguments["labels"] is None:
            arguments["labels"] = self.settings.labels
        if arguments["labels"] is None:
            raise Invalid("give labels: this service has none of its own")
        _check_sizes(arguments, self.settings.limits)
        if _effort(arguments) <= READ_AT_ONCE:
            call, prepared = self._read(pipeline, arguments, truncate)
        else:
            call, prepared = await asyncio.to_thread(self._read, pipeline, arguments, truncate)
        read = time.monotonic() - start
        texts = self.batcher.submit(pipeline.engine.score_prepared, prepared)
        try:
            done = await asyncio.wait_for(asyncio.gather(*texts), self.settings.limits.seconds - read)
        except asyncio.TimeoutError:
            raise DeadlinePassed(f"no answer within {self.settings.limits.seconds:g} s") from None
        except FloatingPointError as error:
            raise RequestError(str(error)) from None
        except OutOfMemoryError:
            raise TooLarge("the device has no memory for a text of this length with these labels") from None
        finally:
            for text in texts:  # where one text fails, nobody waits for the others
                text.cancel()
        found = Answer(call, done, read, time.monotonic() - start)
        self._observe(found)
        return found

    def _pipeline(self, name: str | None) -> ZeroShotClassificationPipeline:
        """Returns the pipeline of a model, by its name; raises UnknownName."""
        if name is None or name == self.settings.model:
            return self.pipeline
        if name not in self._others:
            raise UnknownName(f"there is no model {name!r}; there are {sorted(self._others)}")
        return self._others[name]

    def _read(
        self, pipeline: ZeroShotClassificationPipeline, arguments: dict[str, Any], truncate: bool
    ) -> tuple[Classification, list[Prepared]]:
        try:
            call = pipeline.prepare(**arguments)
            most = self.settings.limits.labels
            if (labels := max((len(each.names) for each in call.labels), default=0)) > most:
                raise Invalid(f"a text has {labels} labels; at most {most} are allowed")
            prepared = pipeline.engine.prepare(call.requests)
        except ArgumentError as error:
            raise Invalid(str(error)) from None
        if not truncate and (cut := max((each.tokens_cut for each in prepared), default=0)):
            raise TooLarge(f"a text is {cut} tokens too long for the window, and truncate is false")
        return call, prepared

    def _observe(self, answer: Answer) -> None:
        tracing.record(answer.done, answer.tokenize_seconds, answer.total_seconds)
        self.metrics.tokenize_seconds.observe(answer.tokenize_seconds)
        self.metrics.queue_seconds.observe(answer.queue_seconds)
        if cut := answer.tokens_cut:
            self.metrics.tokens_cut.inc(cut)


def _loaded(settings: ServeSettings, model: str) -> ZeroShotClassificationPipeline:
    """Returns a model, warmed up, behind its pipeline."""
    pipeline = ZeroShotClassificationPipeline(
        model, max_length=settings.max_length, device=settings.device, progress_bar=False,
        batch_tokens=settings.batch_tokens, on_truncation="ignore", dtype=settings.dtype,
        quantization=settings.quantization,
    )  # fmt: skip
    sizes = WARM_UP[pipeline.device.type] if settings.warm_up is None else settings.warm_up
    pipeline.model.warm_up(sizes)
    pipeline("a text", settings.labels or ["a label"])
    return pipeline


def _check_sizes(arguments: Mapping[str, Any], limits: Limits) -> None:
    """Raises Invalid where there are more texts, characters or labels than the service reads."""
    texts, labels = arguments["texts"], arguments["labels"]
    texts = [texts] if isinstance(texts, str) else texts
    own = [each for each in labels if isinstance(each, list)] if isinstance(labels, list) else []
    for what, found, most in (
        ("the request has {} texts", len(texts), limits.texts),
        ("a text has {} characters", max(map(len, texts), default=0), limits.characters),
        ("a text has {} labels", max(map(len, own or [labels])), limits.labels),
    ):
        if found > most:
            raise Invalid(f"{what.format(found)}; at most {most} are allowed")


def _effort(arguments: Mapping[str, Any]) -> int:
    """Returns about how many characters of prompts a request makes."""
    texts = arguments["texts"]
    count = 1 if isinstance(texts, str) else len(texts)
    return _characters(texts) + count * _characters(arguments["labels"])


def _characters(given: Any) -> int:
    """Returns the characters of all strings in lists and dicts of JSON, however deep."""
    found, waiting = 0, [given]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            found += len(each)
        elif isinstance(each, dict):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            waiting += each
    return found
