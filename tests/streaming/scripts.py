"""A model of what streams should give: it keeps every token, and reads all of them anew for every answer.

What a token sees is kept with it, as an older one that a limit dropped is not seen by those that follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from gliclass_fast.streaming import StreamingZeroShotClassificationPipeline
from tests.accuracy import assert_same_results
from tests.tiny import QWEN3, byte_tokenizer, loaded, reference_model


@lru_cache
def tiny_reference(**options: Any) -> Any:
    return reference_model("qwen3", QWEN3, architecture_type="decoder-kv", **options)


def streaming(model: Any = None, **settings: Any) -> StreamingZeroShotClassificationPipeline:
    """Builds our pipeline over the weights of a reference model."""
    ours = loaded(tiny_reference() if model is None else model)
    return StreamingZeroShotClassificationPipeline(ours, byte_tokenizer(), device="cpu", **settings)


def assert_same_answers(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert {**mine, "predictions": None} == {**theirs, "predictions": None}
        assert_same_results(mine["predictions"], theirs["predictions"])


@dataclass
class Stream:
    """Holds the tokens of a session, the first token that each of them saw, and the first that is kept."""

    ids: list[int] = field(default_factory=list)
    seen_from: list[int] = field(default_factory=list)
    kept_from: int = 0

    @property
    def cached_length(self) -> int:
        return len(self.ids) - self.kept_from


class Recomputed:
    """Answers as streams should, by one pass of the reference's modules over everything."""

    def __init__(self, model: Any, max_cache_len: int | None = None) -> None:
        self.decoder, self.scorer = model.model.decoder_model, model.model.scorer
        self.tokenizer: PreTrainedTokenizerFast = byte_tokenizer()
        self.max_cache_len, self.streams = max_cache_len, dict[str, Stream]()

    def append(self, name: str, text: str) -> Stream:
        stream = self.streams.setdefault(name, Stream())
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        stream.ids += ids
        stream.seen_from += [stream.kept_from] * len(ids)
        if self.max_cache_len is not None:
            stream.kept_from = max(stream.kept_from, len(stream.ids) - self.max_cache_len)
        return stream

    @torch.no_grad()
    def scores(self, name: str, labels: list[str], window: int | None = None) -> list[float]:
        """Returns the scores of labels over a session's last tokens, or over all that it keeps."""
        stream = self.streams[name]
        section = "<<SEP>>" + "".join(f"{label}<<LABEL>>" for label in labels) + "<<SEP>>"
        ids = self.tokenizer(section, add_special_tokens=False)["input_ids"]
        first = max(stream.kept_from, len(stream.ids) - (window or len(stream.ids)))
        everything = torch.tensor([stream.ids + ids])
        starts = torch.tensor(stream.seen_from + [first] * len(ids))
        places = torch.arange(everything.shape[1])
        seen = (places[None] <= places[:, None]) & (places[None] >= starts[:, None])
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        hidden = self.decoder(input_ids=everything, attention_mask=mask).last_hidden_state[:, -len(ids) :]
        given = torch.tensor([ids])
        found: list[float] = self.scorer(hidden, given, torch.ones_like(given))[0].sigmoid().tolist()
        return found
