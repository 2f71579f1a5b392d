"""The reference's streaming pipeline over its tests' own model and tokenizer: sessions, pages, strategies and
answers are ours, and the pass of the network is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from gliclass_fast import streaming
from gliclass_fast.batch import consecutive_spans
from gliclass_fast.config import GLiClassModelConfig
from gliclass_fast.runtime.transfer import PendingLogits
from gliclass_fast.streaming.step import SessionStep
from gliclass_fast.text.label_section import Section
from gliclass_fast.text.prompts import Markers
from tests.peer.models import GLiClassModel

WORDS = ("a", "b")
TINY = {
    "model_type": "qwen3", "vocab_size": len(WORDS) + 3, "hidden_size": 8, "intermediate_size": 8,
    "head_dim": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip


class Reader:
    """Reads with a tokenizer that is a function."""

    markers = Markers()

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        [self.sep_id] = self.contexts([self.markers.sep])[0].tolist()

    def contexts(self, texts: list[str]) -> list[np.ndarray]:
        return [self.tokenizer(text)["input_ids"][0].numpy().astype(np.int32) for text in texts]

    def section(self, labels: tuple[str, ...]) -> Section:
        pieces = self.contexts([label + self.markers.label for label in labels])
        ids = np.concatenate([*pieces, np.array([self.sep_id], dtype=np.int32)])
        return Section(ids, consecutive_spans([len(piece) for piece in pieces]))


class StreamingZeroShotClassificationPipeline(streaming.StreamingZeroShotClassificationPipeline):
    _of_tiny_model: Any = None  # the engine that stays, as their model can have none

    def __init__(self, model: Any, tokenizer: Any, device: str, **settings: Any) -> None:
        super().__init__(*tiny_model(), device=device, **settings)
        self._of_tiny_model = self.engine
        self._model, self._reader = model, Reader(tokenizer)

    @property
    def engine(self) -> Any:
        return self._of_tiny_model or super().engine

    def _follow_model(self) -> None:
        """Their model has no device."""

    def _launch(self, steps: Sequence[SessionStep]) -> PendingLogits | None:
        found = []
        for step in steps:
            if step.added:
                new = step.session.token_ids[step.session.cached_length - step.added :]
                last = step.session.next_position
                self.model.update_decoder_cache(
                    torch.from_numpy(new)[None], None, torch.arange(last - step.added, last)[None], None
                )
            if step.asked is not None:
                ids = torch.from_numpy(step.asked.token_ids)[None]
                found.append(self.model.classify_from_decoder_cache(ids, None, None, None, None).logits)
        return PendingLogits.copy(torch.cat(found, dim=1)) if found else None

    @property
    def _caches(self) -> dict[str, streaming.CacheState]:
        return {
            name: session.state(session.cached_length, torch.device("cpu"))
            for name, session in self.sessions.items()
        }

    @property
    def _session_strategies(self) -> dict[str, streaming.ClassificationStrategy]:
        return {name: session.strategy for name, session in self.sessions.items()}


@cache
def tiny_model() -> tuple[GLiClassModel, Any]:
    """Makes a random model, which never runs here, and its tokenizer."""
    options: dict[str, Any] = {"architecture_type": "decoder-kv", "sep_token_index": len(WORDS) + 1}
    options |= {"class_token_index": len(WORDS), "text_token_index": len(WORDS) + 1}
    model = GLiClassModel(GLiClassModelConfig(TINY, **options), device="cpu")
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, "a"))
    backend.add_special_tokens(["<<LABEL>>", "<<SEP>>", "<<EXAMPLE>>"])
    return model, PreTrainedTokenizerFast(tokenizer_object=backend)


NAMES = {"StreamingZeroShotClassificationPipeline": StreamingZeroShotClassificationPipeline}
