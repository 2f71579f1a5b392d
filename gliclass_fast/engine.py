"""Requests -> logits: prompts, batches, the model, and the answers back in the caller's order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from gliclass_fast.architectures import Output
from gliclass_fast.batch import EncodedPrompt, PackedBatch, plan_batches
from gliclass_fast.model import GLiClassModel
from gliclass_fast.prompts import Request, build_prompt
from gliclass_fast.tokenization import PromptTokenizer

logger = logging.getLogger(__name__)

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
LabelsPerPass = int | Literal["auto"] | None


@dataclass(frozen=True, slots=True)
class Scored:
    """One request's answer."""

    logits: np.ndarray  # float32 [labels]
    uncalibrated: np.ndarray | None  # float32 [labels], of models with a calibrator
    tokens: int  # tokens run, over all passes
    tokens_cut: int  # tokens of the text the window left no room for, in the pass that lost most
    passes: int


class Engine:
    """A model with its tokenizer, a window in tokens and a token budget per batch."""

    def __init__(
        self, model: GLiClassModel, tokenizer: Any, max_length: int, batch_tokens: int | None = None
    ) -> None:
        self.model = model
        self.tokenizer = PromptTokenizer(tokenizer, model.config)
        longest = model.config.encoder.max_positions
        self.window = max_length if longest is None else min(max_length, longest)
        self.batch_tokens = batch_tokens or BATCH_TOKENS[model.device.type]

    def score(
        self, requests: Sequence[Request], labels_per_pass: LabelsPerPass = None, progress: bool = False
    ) -> list[Scored]:
        """Logits of every request, in order.

        labels_per_pass: score at most so many labels at a time, each group in a pass of its own; "auto": as
            many as leave half the window to the text.

        Raises ValueError where labels do not fit the window and FloatingPointError where a logit is not
        finite.
        """
        passes = [
            (index, part)
            for index, request in enumerate(requests)
            for part in self._passes(request, labels_per_pass)
        ]
        encoded = self._encode([part for _, part in passes])
        parts: list[list[tuple[np.ndarray, np.ndarray | None, EncodedPrompt]]] = [[] for _ in requests]
        answers: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
        for group, _, output in self._run(encoded, [index for index, _ in passes], progress):
            logits = _to_numpy(output.logits)
            before = None if output.uncalibrated_logits is None else _to_numpy(output.uncalibrated_logits)
            bounds = np.cumsum([len(encoded[index].label_starts) for index in group])[:-1]
            split = [None] * len(group) if before is None else np.split(before, bounds)
            answers.update(zip(group, zip(np.split(logits, bounds), split, strict=True), strict=True))
        for number, (index, _) in enumerate(passes):
            parts[index].append((*answers[number], encoded[number]))
        return [_joined(each) for each in parts]

    def embed(self, requests: Sequence[Request], progress: bool = False) -> list[dict[str, np.ndarray]]:
        """Per request, in order: logits [labels], text_embedding [C], class_embeddings [labels, C].

        With pooling "pass", text_embedding keeps one row per token of the prompt.
        """
        encoded = self._encode(requests)
        found: dict[int, dict[str, np.ndarray]] = {}
        for group, batch, output in self._run(encoded, range(len(requests)), progress):
            logits, texts, labels = map(_to_numpy, (output.logits, output.text_vectors, output.label_vectors))
            bounds = batch.cu_labels.tolist()
            for place, index in enumerate(group):
                own = slice(bounds[place], bounds[place + 1])
                found[index] = {
                    "logits": logits[own],
                    "text_embedding": texts[place],
                    "class_embeddings": labels[own],
                }
                if self.model.config.pooling_strategy == "pass":
                    found[index]["text_embedding"] = self._text_rows(texts, batch, place)
        return [found[index] for index in range(len(requests))]

    def _text_rows(self, rows: np.ndarray, batch: PackedBatch, place: int) -> np.ndarray:
        """One text's rows; `extract_text_features` adds the reference's empty slot per earlier token."""
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
        half = self.tokenizer.room(self.window) // 2
        groups: list[tuple[str, ...]] = []
        start = used = 0
        for index, tokens in enumerate(self.tokenizer.label_tokens(labels)):
            if used + tokens > half and index > start:
                groups.append(labels[start:index])
                start, used = index, 0
            used += tokens
        return [*groups, labels[start:]]

    def _encode(self, requests: Sequence[Request]) -> list[EncodedPrompt]:
        markers, prompt_first = self.tokenizer.markers, self.model.config.prompt_first
        prompts = [build_prompt(request, markers, prompt_first) for request in requests]
        encoded = self.tokenizer.encode(prompts, self.window) if prompts else []
        if cut := [prompt.tokens_cut for prompt in encoded if prompt.tokens_cut]:
            logger.warning(
                "%d of %d prompts exceed the window of %d tokens: text was cut, by at most %d tokens",
                len(cut), len(encoded), self.window, max(cut),
            )  # fmt: skip
        return encoded

    def _run(
        self, encoded: list[EncodedPrompt], texts: Sequence[int], progress: bool
    ) -> Iterator[tuple[list[int], PackedBatch, Output]]:
        """Batches of prompts (as indices), packed and run; `texts` is the text each prompt belongs to."""
        groups = list(plan_batches([len(prompt.token_ids) for prompt in encoded], self.batch_tokens))
        for group in tqdm(groups, disable=not progress):
            batch = self.model.pack([encoded[index] for index in group])
            output = self.model(batch)
            self._check_finite(output, batch, [texts[index] for index in group])
            yield group, batch, output

    @staticmethod
    def _check_finite(output: Output, batch: PackedBatch, texts: list[int]) -> None:
        broken = np.flatnonzero(~np.isfinite(_to_numpy(output.logits)))
        if len(broken):
            text = texts[int(batch.label_text[broken[0]])]
            raise FloatingPointError(
                f"the model gave a logit that is not finite for text {text}: the checkpoint is damaged or "
                "its values overflow this dtype; try dtype='float32'"
            )


def _to_numpy(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.float().cpu().numpy()
    return array


def _joined(parts: list[tuple[np.ndarray, np.ndarray | None, EncodedPrompt]]) -> Scored:
    """The passes of one request as one answer."""
    before = [uncalibrated for _, uncalibrated, _ in parts if uncalibrated is not None]
    return Scored(
        logits=np.concatenate([logits for logits, _, _ in parts]),
        uncalibrated=np.concatenate(before) if before else None,
        tokens=sum(len(prompt.token_ids) for _, _, prompt in parts),
        tokens_cut=max(prompt.tokens_cut for _, _, prompt in parts),
        passes=len(parts),
    )
