"""Requests -> logits: prompts, batches, the model, and the answers back in the caller's order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Literal, TypeVar

import numpy as np
from tqdm.auto import tqdm

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.engine import overflow
from gliclass_fast.engine.label_cache import LabelVectors
from gliclass_fast.engine.readers import (
    FusedSequence,
    OneSequence,
    RequestEncoder,
    SeparatedLabels,
    TextAlone,
    TwoSequences,
)
from gliclass_fast.models.architectures import Output
from gliclass_fast.runtime.graphs import MAX_TOKENS
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.runtime.oom import run_batches
from gliclass_fast.runtime.transfer import PendingLogits
from gliclass_fast.text.prompts import Request

logger = logging.getLogger(__name__)

BATCH_TOKENS = {"cpu": 2048, "cuda": MAX_TOKENS}
CHUNK = 256  # prompts tokenised at a time, while a GPU works on those before
# A GPU waits for the first prompts only, so these are few; a CPU tokenises and computes in turn.
FIRST_CHUNK = {"cuda": 32}
LabelsPerPass = int | Literal["auto"] | None
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Scored:
    """One request's answer."""

    logits: np.ndarray  # float32 [labels]
    uncalibrated: np.ndarray | None  # float32 [labels], of models with a calibrator
    tokens: int  # tokens run, over all passes
    tokens_cut: int  # tokens of the text the window left no room for, in the pass that lost most
    passes: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Prompts a device has been given."""

    prompts: list[EncodedPrompt]
    batches: list[tuple[list[int], PendingLogits]]  # of which prompts


class Engine:
    """A model with its tokenizer, a window in tokens and a token budget per batch."""

    def __init__(
        self,
        model: GLiClassModel,
        tokenizer: Any,
        max_length: int,
        batch_tokens: int | None = None,
        labels_tokenizer: Any = None,
    ) -> None:
        """labels_tokenizer: of a bi-encoder's label tower."""
        self.model = model
        longest = model.config.encoder.max_positions
        self.window = max_length if longest is None else min(max_length, longest)
        self.batch_tokens = batch_tokens or BATCH_TOKENS[model.device.type]
        if model.graphs is not None:
            self.batch_tokens = min(self.batch_tokens, MAX_TOKENS)
        self._relieve = model.free_graphs  # also of its twin in float32, which has no graphs
        self._label_vectors: LabelVectors | None = None  # of bi-encoders
        self.encoder = self._encoder(tokenizer, labels_tokenizer, max_length)

    def _encoder(self, tokenizer: Any, labels_tokenizer: Any, max_length: int) -> RequestEncoder:
        config = self.model.config
        if config.architecture_type == "gliznet":
            separated = SeparatedLabels(tokenizer, config, self.model.network.head.means)
            self.window = min(self.window, separated.longest)
            return separated
        if config.decoder is not None:
            return TwoSequences(tokenizer, config)
        if config.label_encoder is None:
            return OneSequence(tokenizer, config)
        vectors = LabelVectors(self.model, labels_tokenizer, max_length, self.batch_tokens)
        self._label_vectors = vectors
        if config.architecture_type == "bi-encoder-fused":
            return FusedSequence(tokenizer, config, vectors)
        return TextAlone(tokenizer, vectors)

    def score(
        self,
        requests: Sequence[Request],
        labels_per_pass: LabelsPerPass = None,
        progress: bool = False,
        numbers: Sequence[int] | None = None,
    ) -> list[Scored]:
        """Logits of every request, in order. What overflows 16 bit runs again in float32, with a warning.

        labels_per_pass: score at most so many labels at a time, each group in a pass of its own; "auto": as
            many as leave half the window to the text.
        numbers: of the text each request is about, for messages; default: their order.

        Raises ValueError where labels do not fit the window and FloatingPointError where a logit is not
        finite in float32 either.
        """
        passes = [
            (index, part)
            for index, request in enumerate(requests)
            for part in self._passes(request, labels_per_pass)
        ]
        first = FIRST_CHUNK.get(self.model.device.type, CHUNK)
        chunks = (passes[part] for part in growing(len(passes), first, CHUNK))
        logits: list[np.ndarray | None] = []
        prompts: list[EncodedPrompt] = []
        with tqdm(total=len(passes), disable=not progress) as bar:
            for chunk in _one_behind(map(self._launch, chunks)):
                logits += _collect(chunk)
                prompts += chunk.prompts
                bar.update(len(chunk.prompts))
        self._warn_of_cuts(prompts)
        own = [index if numbers is None else numbers[index] for index, _ in passes]
        complete = self._complete(
            logits, prompts, [part for _, part in passes], own, lambda twin, few: _collect(twin._start(few))
        )
        parts: list[list[tuple[np.ndarray, EncodedPrompt]]] = [[] for _ in requests]
        for (index, _), each, prompt in zip(passes, complete, prompts, strict=True):
            parts[index].append((each, prompt))
        return [_joined(each) for each in parts]

    def embed(self, requests: Sequence[Request], progress: bool = False) -> list[dict[str, np.ndarray]]:
        """Per request, in order: logits [labels], text_embedding [C], class_embeddings [labels, C].

        With pooling "pass", text_embedding keeps one row per token of the prompt; of GliZNet it has one per
        label. What overflows 16 bit runs again in float32, with a warning.

        Raises as `score` does, where any value is not finite.
        """
        encoded = self._encode(requests)
        self._warn_of_cuts(encoded)
        return self._complete(
            self._embed(encoded, progress), encoded, requests, range(len(requests)), Engine._embed
        )

    def _embed(
        self, encoded: list[EncodedPrompt], progress: bool = False
    ) -> list[dict[str, np.ndarray] | None]:
        """What `embed` gives, None for a prompt with a value that is not finite."""
        found: dict[int, dict[str, np.ndarray]] = {}

        def run(group: list[int]) -> tuple[PackedBatch, Output]:
            batch = self.model.pack([encoded[index] for index in group])
            return batch, self.model(batch)

        groups = self._batches(encoded, run)
        for group, (batch, output) in tqdm(groups, disable=not progress):
            logits, texts, labels = map(_to_numpy, (output.logits, output.text_vectors, output.label_vectors))
            bounds = batch.cu_labels.tolist()
            for place, index in enumerate(group):
                own = slice(bounds[place], bounds[place + 1])
                found[index] = {
                    "logits": logits[own],
                    "text_embedding": texts[place],
                    "class_embeddings": labels[own],
                }
                if self.model.config.architecture_type == "gliznet":  # a vector per label
                    found[index]["text_embedding"] = texts[own]
                elif self.model.config.pooling_strategy == "pass":
                    found[index]["text_embedding"] = self._text_rows(texts, batch, place)
        rows = [found[index] for index in range(len(encoded))]
        return [row if all(np.isfinite(each).all() for each in row.values()) else None for row in rows]

    def _complete(
        self,
        answers: list[Result | None],
        prompts: Sequence[EncodedPrompt],
        requests: Sequence[Request],
        numbers: Sequence[int],
        run: Callable[[Engine, list[EncodedPrompt]], list[Result | None]],
    ) -> list[Result]:
        """All answers: those that are None by `run`, given an engine in float32 and the prompts it lacks."""

        def again(places: list[int]) -> list[Result | None]:
            twin = copy(self)
            twin.model = self.model.in_float32()
            few = [prompts[place] for place in places]
            if self._label_vectors is not None:
                vectors = self._label_vectors.by(twin.model).of([requests[place].labels for place in places])
                few = [replace(prompt, label_vectors=own) for prompt, own in zip(few, vectors, strict=True)]
            return run(twin, few)

        return overflow.complete(answers, numbers, self.model.dtype, again)

    def _text_rows(self, rows: np.ndarray, batch: PackedBatch, place: int) -> np.ndarray:
        """One text's rows; `extract_text_features` adds the reference's empty slot per earlier token."""
        if self.model.config.decoder is not None:  # the text is a sequence of its own
            first, last = batch.cu_seqlens[place : place + 2].tolist()
            return rows[first:last]
        start, end = batch.text_spans[place].tolist()
        if not self.model.config.extract_text_features:
            first, last = batch.cu_seqlens[place : place + 2].tolist()
            return rows[first:last]
        others = 0 if self.model.config.use_lstm else start - int(batch.cu_seqlens[place])
        empty = _to_numpy(self.model.empty_text_vector())
        return np.concatenate((rows[start:end], np.repeat(empty, others, axis=0)))

    def _passes(self, request: Request, labels_per_pass: LabelsPerPass) -> list[Request]:
        if labels_per_pass is None:
            return [request]
        if labels_per_pass == "auto":
            groups = self._fitting_groups(request.labels)
        else:
            steps = range(0, len(request.labels), labels_per_pass)
            groups = [request.labels[start : start + labels_per_pass] for start in steps]
        return [replace(request, labels=group) for group in groups]

    def _fitting_groups(self, labels: tuple[str, ...]) -> list[tuple[str, ...]]:
        budget = self.encoder.label_budget(self.window)
        groups: list[tuple[str, ...]] = []
        start = used = 0
        for index, tokens in enumerate(self.encoder.label_tokens(labels)):
            if used + tokens > budget and index > start:
                groups.append(labels[start:index])
                start, used = index, 0
            used += tokens
        return [*groups, labels[start:]]

    def _encode(self, requests: Sequence[Request]) -> list[EncodedPrompt]:
        return self.encoder.encode(requests, self.window) if requests else []

    def _launch(self, passes: Sequence[tuple[int, Request]]) -> _Chunk:
        """Tokenises prompts and gives them to the device, without waiting for it."""
        return self._start(self._encode([request for _, request in passes]))

    def _start(self, prompts: list[EncodedPrompt]) -> _Chunk:
        batches = self._batches(prompts, lambda group: self.model.score([prompts[index] for index in group]))
        return _Chunk(prompts, list(batches))

    def _batches(
        self, prompts: list[EncodedPrompt], run: Callable[[list[int]], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """`run` on groups of prompts, given as indices, within the token budget."""
        costs = [prompt.cost for prompt in prompts]
        return run_batches(costs, self.batch_tokens, run, self._relieve)

    def _warn_of_cuts(self, prompts: Sequence[EncodedPrompt]) -> None:
        if cut := [prompt.tokens_cut for prompt in prompts if prompt.tokens_cut]:
            logger.warning(
                "%d of %d prompts exceed the window of %d tokens: text was cut, by at most %d tokens. Raise "
                "max_length where the model allows it, or classify in chunks, of a smaller text_chunk_size",
                len(cut), len(prompts), self.window, max(cut),
            )  # fmt: skip


def growing(count: int, first: int, most: int) -> Iterator[slice]:
    """So many items in parts: `first` of them, then as many as came before, at most `most` at a time."""
    start = 0
    while start < count:
        size = min(max(first, start), most)
        yield slice(start, start + size)
        start += size


def _one_behind(items: Iterable[Result]) -> Iterator[Result]:
    """Every item, once the one after it exists."""
    waiting: list[Result] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _collect(chunk: _Chunk) -> list[np.ndarray | None]:
    """Logits [1 or 2, labels] of every prompt, None where one is not finite; waits for the device."""
    found: dict[int, np.ndarray | None] = {}
    for group, pending in chunk.batches:
        everything = pending.wait()
        bounds = [0, *accumulate(chunk.prompts[index].labels for index in group)]
        finite = np.isfinite(everything).all()
        for index, (start, end) in zip(group, pairwise(bounds), strict=True):
            logits = everything[:, start:end]
            found[index] = logits if finite or np.isfinite(logits).all() else None
    return [found[index] for index in range(len(chunk.prompts))]


def _to_numpy(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.float().cpu().numpy()
    return array


def _joined(parts: list[tuple[np.ndarray, EncodedPrompt]]) -> Scored:
    """The passes of one request as one answer."""
    logits = parts[0][0] if len(parts) == 1 else np.concatenate([each for each, _ in parts], axis=1)
    return Scored(
        logits=logits[0],
        uncalibrated=logits[1] if len(logits) == 2 else None,
        tokens=sum([prompt.tokens for _, prompt in parts]),
        tokens_cut=max([prompt.tokens_cut for _, prompt in parts]),
        passes=len(parts),
    )
