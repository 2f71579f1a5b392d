"""Drop-in `StreamingZeroShotClassificationPipeline`: texts arrive in chunks, and only new tokens are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import RLock
from typing import Any

import numpy as np
import torch

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.pipeline import BasePipeline
from gliclass_fast.pipeline.checked_attributes import Setting
from gliclass_fast.runtime.packing import run_batches
from gliclass_fast.runtime.shortage import is_shortage
from gliclass_fast.runtime.transfer import PendingLogits, uncompiled
from gliclass_fast.streaming.calls import (
    Chunk,
    check_positive,
    check_strategy,
    copy_of,
    limit_or_none,
    read_call,
)
from gliclass_fast.streaming.pool import PagePool
from gliclass_fast.streaming.session import Session
from gliclass_fast.streaming.sessions import Sessions
from gliclass_fast.streaming.staged import Answer, Staged, answers
from gliclass_fast.streaming.step import LabelPass, SessionStep, run_step
from gliclass_fast.streaming.strategies import ClassificationStrategy, EveryChunkStrategy
from gliclass_fast.text.arguments import check_switch, checks_names
from gliclass_fast.text.errors import WrongValue


class StreamingZeroShotClassificationPipeline(BasePipeline):
    """Classifies many streams of text, with the reference's names, arguments and results.

    A call appends one chunk to each of its sessions and classifies those whose strategy says so. Calls may
    come from several threads; they run one after another. A call that raises leaves every session as it was.
    Within a call, as in a strategy, sessions are neither called, deleted, copied nor given another strategy:
    RuntimeError.
    """

    max_cache_len: Setting[int | None] = Setting(partial(limit_or_none, name="max_cache_len"))
    max_cached_tokens: Setting[int | None] = Setting(partial(limit_or_none, name="max_cached_tokens"))
    default_strategy: Setting[ClassificationStrategy] = Setting(
        partial(check_strategy, name="default_strategy")
    )
    drop_absent: Setting[bool] = Setting(partial(check_switch, name="drop_absent"))
    score_leading_sep: Setting[bool] = Setting(partial(check_switch, name="score_leading_sep"))

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        max_classes: int = 25,
        max_length: int | None = 1024,
        classification_type: str = "multi-label",
        device: Any = None,
        progress_bar: bool = False,
        label_separator: str = ".",
        max_cache_len: int | None = None,
        default_batch_size: int = 8,
        default_strategy: ClassificationStrategy | None = None,
        offload_to_cpu: bool = False,
        use_pinned_memory: bool = False,
        score_on_cpu: bool = False,
        *,
        drop_absent: bool = True,
        max_cached_tokens: int | None = None,
        score_leading_sep: bool = True,
        batch_tokens: int | None = None,
        **model_options: Any,
    ) -> None:
        """Loads the model and its tokenizer, as `ZeroShotClassificationPipeline` does.

        Args:
            max_cache_len: tokens that a session keeps at most; older ones are dropped, positions count on.
            default_strategy: the strategy of sessions that are given none; default: `EveryChunkStrategy()`.
            drop_absent: deletes every session that a call does not name, as the reference does.
            max_cached_tokens: tokens that all sessions together keep at most. Where a call needs room, the
                sessions that were used least recently leave; a later call that names one of them raises.
            score_leading_sep: gives the scorer the <<SEP>> between text and labels, as the reference does in
                streams and not elsewhere. False: scores equal those of `ZeroShotClassificationPipeline`.
            offload_to_cpu: keeps sessions in host memory between calls, where the model is on a GPU.
            use_pinned_memory: keeps them in page-locked memory there.
            max_classes, max_length, default_batch_size, score_on_cpu: have no effect. A chunk is never cut.

        Raises the errors of `ZeroShotClassificationPipeline`, and ValueError for a model that is no
        `decoder-kv` or whose scorer reads the text again, which a stream does not keep.
        """
        self.max_cache_len, self.max_cached_tokens = max_cache_len, max_cached_tokens
        self.default_batch_size = check_positive(default_batch_size, "default_batch_size")
        self.default_strategy = EveryChunkStrategy() if default_strategy is None else default_strategy
        self.drop_absent, self.score_leading_sep = drop_absent, score_leading_sep
        super().__init__(
            model, tokenizer, max_classes, max_length, classification_type, device, progress_bar,
            label_separator, batch_tokens, **model_options,
        )  # fmt: skip
        self.score_on_cpu = score_on_cpu
        self.sessions = Sessions()
        self._lock: Any = RLock()
        self.offload_to_cpu, self.use_pinned_memory = offload_to_cpu, use_pinned_memory
        self._bind()

    def _bind(self) -> None:
        """Makes the pages for the model as it is now; raises ValueError where it cannot read streams."""
        model, config = self.model, self.model.loaded.config
        network = model.loaded.network.as_streamable()
        if network is None:
            raise WrongValue(
                f"streaming needs architecture_type='decoder-kv', got {config.architecture_type!r}"
            )
        if network.reads_text:
            raise WrongValue(
                "recurrent_read_text: this model's scorer reads the text again, of which a stream keeps keys "
                "and values alone; use ZeroShotClassificationPipeline"
            )
        self._bound, backbone = (model.loaded, self.tokenizer), config.backbone_config
        self._reader: Any = self.engine.reader
        shape = backbone.num_hidden_layers, backbone.num_key_value_heads, backbone.head_width
        self._pool = self.sessions.pool = PagePool(*shape, model.loaded.computes_in, model.device)
        self.sessions.offloads = self._offload_to_cpu and model.device.type != "cpu"

    def _follow_model(self) -> None:
        """Notices another model; raises ValueError where sessions hold what the old one read."""
        self.engine.follow_model()
        loaded, tokenizer = self._bound
        if loaded is self.model.loaded and tokenizer is self.tokenizer:
            self._reader = self.engine.reader
            return
        if self.sessions:
            raise ValueError(
                "the model or the tokenizer changed, or the model moved, and the sessions hold what the old "
                "one read: clear_sessions() lets them begin anew"
            )
        self._bind()

    def __getstate__(self) -> dict[str, Any]:
        """Lets a copy, in another process too, go on with the same sessions; ValueError as for a call."""
        with self._alone():
            self._follow_model()
            kept = {name: each for name, each in vars(self).items() if name not in _OF_THIS_PROCESS}
            return kept | {"sessions": self.sessions.copy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=RLock())
        self._bind()

    @uncompiled
    @checks_names
    def __call__(
        self,
        texts: str | Sequence[str],
        labels: Any,
        *,
        session_ids: str | Sequence[str],
        threshold: float | Sequence[float] = 0.5,
        batch_size: int | None = None,
        classification_type: str | Sequence[str] | None = None,
        strategies: ClassificationStrategy | Sequence[ClassificationStrategy] | None = None,
        examples: Sequence[Any] | None = None,
        prompt: str | Sequence[str] | None = None,
        return_hierarchical: bool = False,
    ) -> list[Answer]:
        """Appends a chunk of text to every session that is named, and classifies where strategies say so.

        Args:
            texts: a chunk per session; an empty one adds no text and does not classify, but one that begins a
                session adds its prompt and examples.
            labels, threshold, classification_type, examples, prompt, return_hierarchical: as for
                `ZeroShotClassificationPipeline`. Prompt and examples are read in front of a session's first
                chunk, and must not change afterwards; None leaves them as they are.
            session_ids: the names of the sessions, each at most once. A new name begins a session.
            strategies: for sessions that begin now, one for all or one per text. Each gets a copy of its own.
            batch_size: has no effect; see `batch_tokens`.

        Returns:
            Per text {"session_id", "triggered", "predictions", "cached_length", "tokens_added"}. Predictions
            are as `ZeroShotClassificationPipeline` gives them, and None where nothing was classified.

        Raises:
            TypeError, ValueError: an argument is not as described above, a session left to make room, the
                sessions of the call exceed `max_cached_tokens`, or the model changed or moved while there are
                sessions.
            FloatingPointError: a logit is not finite; a stream does not run again in float32.
            torch.OutOfMemoryError: the device has no memory for the keys and values of all chunks, or for the
                pass of one of them alone.
        """
        with self._alone():
            self._follow_model()
            chunks = read_call(
                markers=self._reader.markers, label_separator=self.label_separator,
                default_kind=self.classification_type, texts=texts, labels=labels, session_ids=session_ids,
                threshold=threshold, batch_size=batch_size, classification_type=classification_type,
                strategies=strategies, examples=examples, prompt=prompt,
                return_hierarchical=return_hierarchical,
            )  # fmt: skip
            if not self.sessions.settled:
                self.sessions.settle()
            self.sessions.settled = False
            try:
                staged = self._staged(chunks)
                logits = self._run(staged)
                sessions = [each.session for each in staged]
                limit = self.max_cache_len
                found = answers(staged, logits, return_hierarchical, self.label_separator, limit)
                stowed = self.sessions.stow(sessions, limit)
                self.sessions.keep(sessions, stowed, self.drop_absent, limit, self.max_cached_tokens)
            except BaseException:
                self.sessions.settle()
                raise
        return found

    @property
    def offload_to_cpu(self) -> bool:
        """Tells whether sessions wait in host memory; from the next call on, where it is set."""
        return self._offload_to_cpu

    @offload_to_cpu.setter
    def offload_to_cpu(self, value: bool) -> None:
        self._offload_to_cpu = check_switch(value, "offload_to_cpu")
        self.sessions.offloads = self._offload_to_cpu and self.model.device.type != "cpu"

    @property
    def use_pinned_memory(self) -> bool:
        """Tells whether they wait in page-locked memory there."""
        return self.sessions.pins

    @use_pinned_memory.setter
    def use_pinned_memory(self, value: bool) -> None:
        self.sessions.pins = check_switch(value, "use_pinned_memory")

    @property
    def active_sessions(self) -> list[str]:
        """Returns the names of the sessions, the oldest first; during a call those of before it."""
        return list(self.sessions)

    def delete_session(self, *session_ids: str) -> list[str]:
        """Deletes sessions, and returns those of the names that there were."""
        with self._alone():
            return self.sessions.delete(session_ids)

    def clear_sessions(self) -> None:
        """Deletes every session."""
        with self._alone():
            self.sessions.clear()

    def set_session_strategy(self, session_id: str, strategy: ClassificationStrategy) -> None:
        """Gives a session a copy of another strategy; raises KeyError for a name that there is not."""
        check_strategy(strategy, "strategy")
        with self._alone():
            if session_id not in self.sessions:
                raise KeyError(f"there is no session {session_id!r}")
            self.sessions[session_id].strategy, _ = copy_of(strategy, {}, session_id)

    def _alone(self) -> Any:
        """Returns the lock of calls; RuntimeError where a call is under way in this thread.

        A strategy, a signal handler and a finalizer of Python run in the thread of the call that they
        interrupt, whose sessions are in between two states. The lock is entered in C, so that no interrupt
        comes between taking it and noting its owner; a field of ours for the owner would be set in a second
        step. Python does not document `_is_owned`, but its own threading.Condition calls it.
        """
        if self._lock._is_owned():
            raise RuntimeError("a call of this pipeline is under way in this thread: do this after it")
        return self._lock

    def _staged(self, chunks: list[Chunk]) -> list[Staged]:
        """Returns all chunks with their sessions, which have the pages for them."""
        staged = [self._stage(*each) for each in zip(chunks, self._tokenize(chunks), strict=True)]
        self._check_room(staged)  # a call that is refused has taken no memory
        self._reserve(sum(each.step.pages_missing for each in staged))
        for each in staged:
            self._give_pages(each.step)
        return staged

    def _reserve(self, pages: int) -> None:
        """Makes room for the keys and values of a call; raises torch.OutOfMemoryError where there is none."""
        for relieved in (False, True):
            try:
                return self._pool.reserve(pages)
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
                if relieved:
                    raise torch.OutOfMemoryError(f"no memory for the keys and values: {error}") from error
                self.engine.relieve()

    def _tokenize(self, chunks: list[Chunk]) -> list[np.ndarray]:
        """Returns the ids of every chunk, with prompt and examples where nothing was read yet."""
        texts = []
        for chunk in chunks:
            known = self.sessions.get(chunk.session_id)
            if self.sessions.has_left(chunk.session_id) and known is None and not self.drop_absent:
                raise WrongValue(
                    f"session {chunk.session_id!r} left to make room within max_cached_tokens="
                    f"{self.max_cached_tokens}; delete_session({chunk.session_id!r}) lets it begin anew"
                )
            begun = known is not None and known.cached_length > 0
            if begun and chunk.prefix and known is not None and chunk.prefix != known.prefix:
                raise WrongValue(
                    f"prompt or examples of session {chunk.session_id!r} changed; delete the session before "
                    "changing them"
                )
            texts.append(chunk.text if begun else chunk.read_prefix + chunk.text)
        found: list[np.ndarray] = self._reader.contexts(texts)
        return found

    def _stage(self, chunk: Chunk, token_ids: np.ndarray) -> Staged:
        known = self.sessions.get(chunk.session_id)
        if known is None:
            given = self.default_strategy if chunk.strategy is None else chunk.strategy
            strategy, _ = copy_of(given, {}, chunk.session_id)
            session = Session(chunk.session_id, strategy, chunk.prefix)
        else:
            session = known.copy(*copy_of(known.strategy, known.metadata, chunk.session_id))
            if known.cached_length == 0 and chunk.prefix:
                session.prefix = chunk.prefix
        session.append(token_ids)
        session.last_used = self.sessions.calls
        asked = self._asked(chunk, session, len(token_ids))
        return Staged(chunk, session, SessionStep(session, len(token_ids), asked))

    def _give_pages(self, step: SessionStep) -> None:
        """Takes the pages that a session lacks, and brings back what waits in host memory."""
        session = step.session
        stowed, session.stowed = session.stowed, None
        session.pages += self._pool.take(step.pages_missing)
        if stowed is not None:
            self._pool.restore(session.rows(0, stowed.shape[2]), stowed)

    def _asked(self, chunk: Chunk, session: Session, added: int) -> LabelPass | None:
        visible = session.kept_length(self.max_cache_len)
        if not (chunk.text and added and session.strategy.should_classify(added, visible, chunk.text)):
            return None
        section = self._reader.section(chunk.labels.read)
        ids = np.concatenate((np.array([self._reader.sep_id], dtype=np.int32), section.token_ids))
        read = EncodedPrompt(section.token_ids, 0, section.spans)
        if self.score_leading_sep:
            read = EncodedPrompt(ids, 0, section.spans + 1)
        return LabelPass(ids, read, session.window(visible, self.device))

    def _check_room(self, staged: list[Staged]) -> None:
        needed = sum(each.session.kept_length(self.max_cache_len) for each in staged)
        if self.max_cached_tokens is not None and needed > self.max_cached_tokens:
            raise WrongValue(
                f"the sessions of this call would keep {needed} tokens, more than max_cached_tokens="
                f"{self.max_cached_tokens}"
            )

    def _launch(self, steps: Sequence[SessionStep]) -> PendingLogits | None:
        return run_step(self._bound[0], self._pool, steps)

    def _run(self, staged: list[Staged]) -> list[np.ndarray]:
        """Runs all chunks within the token budget; returns the logits of those that are classified."""
        steps = [each.step for each in staged]

        def run(group: list[int]) -> PendingLogits | None:
            return self._launch([steps[n] for n in group])

        costs = [each.rows for each in steps]
        # all groups are launched before the first is waited for
        launched = list(run_batches(costs, self.engine.batch_tokens, run, self.engine.relieve))
        found: dict[int, np.ndarray] = {}
        for group, pending in launched:
            if pending is not None:
                counts = {n: asked.section.num_labels for n in group if (asked := steps[n].asked)}
                ends = np.cumsum(list(counts.values()))[:-1]
                found |= zip(counts, np.split(pending.wait(), ends, axis=1), strict=True)
        logits = []
        for number, own in sorted(found.items()):
            if not np.isfinite(own).all():
                name, narrow = (
                    steps[number].session.session_id,
                    self.model.loaded.computes_in is not torch.float32,
                )
                raise FloatingPointError(_NOT_FINITE.format(name) + (_LOAD_WIDER if narrow else ""))
            logits.append(own)
        return logits


_OF_THIS_PROCESS = ("_lock", "_bound", "_pool", "_reader")
_NOT_FINITE = "session {!r} has a logit that is not finite"
_LOAD_WIDER = ". A stream does not run again in float32: load the model with dtype='float32', or 'bfloat16'"
