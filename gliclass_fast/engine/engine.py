"""The engine: it makes prompts and batches of requests, runs them, and answers in the caller's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.engine import overflow
from gliclass_fast.engine.label_cache import LabelCache
from gliclass_fast.engine.passes import LabelsPerPass, split
from gliclass_fast.engine.scored import Launched, Prepared, Row, Scored
from gliclass_fast.engine.truncation import CutReports
from gliclass_fast.runtime.loaded import LoadedNetwork
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.runtime.packing import run_batches
from gliclass_fast.text.arguments import OnTruncation
from gliclass_fast.text.prompts import Request
from gliclass_fast.text.tokenizer import window_of

CHUNK = 256  # prompts that are tokenised at a time, while a GPU works on those before
# A GPU waits for the first prompts only, so these are few; a CPU tokenises and computes in turn.
FIRST_CHUNK = {"cuda": 32}
Result = TypeVar("Result")


class Engine:
    """Runs a model with its tokenizer, a window in tokens and a token budget per batch."""

    def __init__(
        self,
        model: GLiClassModel,
        tokenizer: Any,
        max_length: int | None,
        batch_tokens: int | None = None,
        labels_tokenizer: Any = None,
        narrow: Engine | None = None,
    ) -> None:
        """Chooses the reader and the window, which has at most max_length tokens.

        Args:
            labels_tokenizer: the tokenizer of the label tower, where the model has one.
            narrow: the engine in 16 bit for which this one reads again what overflows.
        """
        self.model, self._narrow = model, narrow
        self._lock = Lock()  # held while what follows from the model is exchanged
        self.made_of = (model, tokenizer, max_length, batch_tokens, labels_tokenizer)
        self._bind()

    def _bind(self) -> None:
        """Chooses the reader, the window and the budget for the model as it is now."""
        _, tokenizer, max_length, batch_tokens, labels_tokenizer = self.made_of
        loaded = self.model.loaded
        self._twin: Engine | None = None
        self.batch_tokens = loaded.batch_tokens(batch_tokens)
        if labels_tokenizer is not None:
            label_cache = LabelCache(self.model, labels_tokenizer, max_length, self.batch_tokens)
            self.reader = loaded.network.reader(tokenizer, label_cache.vectors)
        elif self._narrow is not None:  # to read is the same in any dtype, where labels are no vectors
            self.reader = self._narrow.reader
        else:
            self.reader = loaded.network.reader(tokenizer, None)
        self._bound = (loaded.config, loaded.device, self.reader.longest)
        limits = (loaded.config.backbone_config.max_positions, self._bound[2])
        longest = min((limit for limit in limits if limit is not None), default=None)
        max_length = window_of(max_length, tokenizer)
        self.window = max_length if longest is None else min(max_length, longest)
        self.cuts = CutReports(self.window, max_length, longest)

    def follow_model(self) -> LoadedNetwork:
        """Brings the model up to date, and the rest where it or the tokenizer's limit is another one now.

        Returns the network as it is now.
        """
        if self.model.origin.changed():
            self.model.follow_origin()
        with self._lock:
            now = self.model.loaded
            if (now.config, now.device, self.reader.longest) != self._bound:
                self._bind()
        return now

    def _with_one_network(self, run: Callable[[], Result]) -> Result:
        """Runs something; where another thread exchanged the network meanwhile, once more, while none can."""
        loaded = self.follow_model()
        try:
            result = run()
            if self.model.loaded is loaded:
                return result
        except Exception:  # such as that of tensors of two dtypes
            if self.model.loaded is loaded:
                raise
        with self.model.exchange:
            self.follow_model()
            return run()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as what it was made of, which is the model and the tokenizers; the rest is made anew."""
        return Engine, self.made_of

    def relieve(self) -> None:
        """Gives back device memory that is not needed: that of CUDA graphs."""
        (self._narrow or self).model.loaded.free_graphs()

    def score(
        self,
        requests: Sequence[Request],
        labels_per_pass: LabelsPerPass = None,
        progress: bool = False,
        numbers: Sequence[int] | None = None,
        on_truncation: OnTruncation = "warn",
    ) -> list[Scored]:
        """Returns the logits of every request, in order.

        A request that overflows 16 bit runs again in float32, with a warning.

        labels_per_pass: scores at most so many labels at a time, each group in a pass of its own; "auto": as
            many as leave half the window to the text.
        numbers: the number that messages give to the text of each request; default: its place.
        on_truncation: what happens where the window cuts a text.

        Raises ValueError where labels do not fit the window, or a text is cut and that is an error;
        FloatingPointError where a logit is not finite in float32 either.
        """
        named = range(len(requests)) if numbers is None else numbers

        def run() -> list[Scored]:
            passes = [
                (index, part)
                for index, request in enumerate(requests)
                for part in self.passes(request, labels_per_pass)
            ]
            of_passes = [named[index] for index, _ in passes]
            prompts = None
            if on_truncation == "error":  # nothing runs where a text would be cut
                prompts = self.encode([request for _, request in passes])
                self._report_cuts(prompts, of_passes, on_truncation)
            rows = self._run(passes, progress, prompts)
            self._report_cuts([row.prompt for row in rows], of_passes, on_truncation)
            return self._answers(rows, len(requests), named)

        return self._with_one_network(run)

    def prepare(self, requests: Sequence[Request], labels_per_pass: LabelsPerPass = None) -> list[Prepared]:
        """Reads requests for `score_prepared`; raises ValueError where labels do not fit the window."""
        loaded = self.follow_model()
        passes = [self.passes(request, labels_per_pass) for request in requests]
        prompts = iter(self.encode([part for own in passes for part in own]))
        return [Prepared(own, list(islice(prompts, len(own))), loaded) for own in passes]

    def score_prepared(self, prepared: Sequence[Prepared]) -> list[Scored]:
        """Returns the logits of requests that were read before, in order, as `score` does.

        Nothing is said of texts that the window cuts: `Prepared.tokens_cut` tells. Raises FloatingPointError
        where a logit is not finite in float32 either.
        """
        passes = [(index, part) for index, each in enumerate(prepared) for part in each.passes]

        def run() -> list[Scored]:
            loaded = self.model.loaded
            prompts = [
                prompt
                for each in prepared
                for prompt in (each.prompts if each.loaded is loaded else self.encode(each.passes))
            ]
            return self._answers(self._run(passes, encoded=prompts), len(prepared), range(len(prepared)))

        return self._with_one_network(run)

    def _answers(self, rows: list[Row], count: int, numbers: Sequence[int]) -> list[Scored]:
        """Returns the answers to so many requests; rows without logits run again in float32."""
        if any(row.logits is None for row in rows):
            self._score_again(rows, [numbers[row.index] for row in rows])
        by_request: list[list[Row]] = [[] for _ in range(count)]
        for row in rows:
            by_request[row.index].append(row)
        return [_join_passes(each) for each in by_request]

    def _score_again(self, rows: list[Row], numbers: list[int]) -> None:
        """Gives the rows without logits those of the twin in float32."""

        def again(places: list[int]) -> list[np.ndarray | None]:
            passes = list(enumerate(rows[place].request for place in places))
            return [row.logits for row in self._in_float32()._run(passes)]

        logits = overflow.complete(
            [row.logits for row in rows], numbers, self.model.loaded.computes_in, again
        )
        for row, found in zip(rows, logits, strict=True):
            row.logits = found

    def _run(
        self,
        passes: Sequence[tuple[int, Request]],
        progress: bool = False,
        encoded: list[EncodedPrompt] | None = None,
    ) -> list[Row]:
        """Returns every pass with its logits; the host tokenises prompts while a device works on others.

        passes: each with the place of its request in the call. encoded: their prompts, where they are made.
        """
        rows: list[Row] = []
        running: Launched = []
        with _bar(len(passes), progress) as advance:
            # where nothing is left to tokenise, the device need not wait for a first small part either
            first = CHUNK if encoded else FIRST_CHUNK.get(self.model.loaded.device.type, CHUNK)
            for part in growing(len(passes), first, CHUNK):
                prompts = encoded[part] if encoded else self.encode([each for _, each in passes[part]])
                fresh = [Row(*own, prompt) for own, prompt in zip(passes[part], prompts, strict=True)]
                rows += fresh
                launched = self._launch(fresh)
                advance(_collect(running))
                running = launched
            advance(_collect(running))
        return rows

    def _launch(self, rows: list[Row]) -> Launched:
        """Gives prompts to the device without waiting for it."""
        loaded = self.model.loaded
        return [
            ([rows[place] for place in group], pending)
            for group, pending in self._batches([row.prompt for row in rows], loaded.score)
        ]

    def embed(
        self,
        requests: Sequence[Request],
        progress: bool = False,
        on_truncation: OnTruncation = "warn",
    ) -> list[dict[str, np.ndarray]]:
        """Returns per request, in order: logits [labels], text_embedding [C], class_embeddings [labels, C].

        With pooling "pass", text_embedding keeps one row per token of the prompt; GliZNet gives one row per
        label. A request that overflows 16 bit runs again in float32, with a warning.

        Raises the errors of `score`, where any value is not finite.
        """

        def again(places: list[int]) -> list[dict[str, np.ndarray] | None]:
            twin = self._in_float32()
            return twin._embed(twin.encode([requests[place] for place in places]))

        def run() -> list[dict[str, np.ndarray]]:
            prompts = self.encode(requests)
            self._report_cuts(prompts, range(len(prompts)), on_truncation)
            found = self._embed(prompts, progress)
            return overflow.complete(found, range(len(requests)), self.model.loaded.computes_in, again)

        return self._with_one_network(run)

    def _embed(
        self, prompts: list[EncodedPrompt], progress: bool = False
    ) -> list[dict[str, np.ndarray] | None]:
        """Returns what `embed` does, with None for a prompt that has a value that is not finite."""
        found: list[dict[str, np.ndarray] | None] = [None] * len(prompts)
        with _bar(len(prompts), progress) as advance:
            for group, embedded in self._batches(prompts, self.model.loaded.embed):
                for index, (logits, text, labels) in zip(group, embedded, strict=True):
                    row = {"logits": logits[0], "text_embedding": text, "class_embeddings": labels}
                    found[index] = row if all(np.isfinite(each).all() for each in row.values()) else None
                advance(len(group))
        return found

    def _in_float32(self) -> Engine:
        """Returns this engine with the model's twin in float32; it is kept as long as the twin."""
        model = self.model.in_float32()
        if self._twin is None or self._twin.model is not model:
            self._twin = Engine(model, *self.made_of[1:], narrow=self)
        return self._twin

    def passes(self, request: Request, labels_per_pass: LabelsPerPass) -> list[Request]:
        """Returns a request per group of labels that is scored at a time."""
        if labels_per_pass is None:
            return [request]
        return split(request, labels_per_pass, self.reader, self.window)

    def encode(self, requests: Sequence[Request]) -> list[EncodedPrompt]:
        """Makes the prompts of requests, within the window.

        Raises ValueError where labels do not fit it, and for an adapter that is not loaded.
        """
        if not requests:
            return []
        prompts, adapters = self.reader.encode(requests, self.window), self.model.adapters
        return [
            prompt if request.adapter is None else replace(prompt, adapter=adapters[request.adapter])
            for request, prompt in zip(requests, prompts, strict=True)
        ]

    def _batches(
        self, prompts: list[EncodedPrompt], run: Callable[[list[EncodedPrompt]], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """Calls `run` on groups of prompts within the token budget; yields their places and the result."""

        def run_group(group: list[int]) -> Result:
            return run([prompts[place] for place in group])

        costs, owners = [prompt.cost for prompt in prompts], self.model.loaded.owners(prompts)
        return run_batches(costs, self.batch_tokens, run_group, self.relieve, *owners)

    def _report_cuts(
        self, prompts: Sequence[EncodedPrompt], numbers: Sequence[int], on_truncation: OnTruncation
    ) -> None:
        cut = {place: prompt.tokens_cut for place, prompt in enumerate(prompts) if prompt.tokens_cut}
        if cut and on_truncation != "ignore":
            own = [numbers[place] for place in cut]
            self.cuts.report(own, max(cut.values()), len(prompts), on_truncation == "error")


@contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[int], Any]]:
    """Gives the function that moves a progress bar on, which a terminal shows for long calls only."""
    if not progress or total <= CHUNK:
        yield lambda count: None  # a bar that nobody sees would still make a lock for all processes
        return
    with tqdm(total=total, disable=None) as bar:
        yield bar.update


def growing(count: int, first: int, most: int) -> Iterator[slice]:
    """Yields parts of so many items: `first`, then as many as came before, at most `most` at a time."""
    start = 0
    while start < count:
        size = min(max(first, start), most)
        yield slice(start, start + size)
        start += size


def _collect(batches: Launched) -> int:
    """Waits for the device and gives every row its logits; returns the number of rows."""
    for rows, pending in batches:
        everything = pending.wait()
        finite, start = np.isfinite(everything).all(), 0
        for row in rows:
            end = start + row.prompt.num_labels
            logits = everything[:, start:end]
            row.logits = logits if finite or np.isfinite(logits).all() else None
            start = end
    return sum(len(rows) for rows, _ in batches)


def _join_passes(passes: list[Row]) -> Scored:
    """Joins the passes of one request into one answer."""
    logits = [row.logits for row in passes if row.logits is not None]
    return Scored(
        logits=logits[0] if len(logits) == 1 else np.concatenate(logits, axis=1),
        tokens=sum([row.prompt.tokens for row in passes]),
        tokens_cut=max([row.prompt.tokens_cut for row in passes]),
        passes=len(passes),
    )
