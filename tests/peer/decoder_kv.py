"""The reference's classes of `decoder-kv`, over padded rows: ours read packed label sections."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.models.architectures.decoder_kv import section_places
from gliclass_fast.models.decoder_kv import scorer as section_scorer
from gliclass_fast.models.decoder_kv.reasoning import Text
from gliclass_fast.ops import choose_ops
from gliclass_fast.runtime.packing import pack
from gliclass_fast.text.label_section import prompt_of_section_ids
from tests.peer.scorers import config_of, initialized, prepare

OPTIONS = (
    "normalize_features", "scorer_encoder_num_layers", "scorer_mlp_hidden_size", "problem_type",
    "recurrent_steps", "recurrent_read_text",
)  # fmt: skip


def section_of(ids: Tensor, label_id: int) -> EncodedPrompt:
    """Makes a label section of ids [S], whose labels end with their markers."""
    ends = (1 + (ids == label_id).nonzero()[:, 0]).tolist()
    spans = torch.tensor([[0, *ends[:-1]], ends], dtype=torch.int32).T
    return EncodedPrompt(ids.int().numpy(), 0, spans.numpy())


def real(ids: Tensor, mask: Tensor) -> list[Tensor]:
    return [own[kept.bool()] for own, kept in zip(ids, mask, strict=True)]


class DecoderKVScorer(nn.Module):
    """Runs our scorer, whose weights are random."""

    config: Any

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        given = {name: getattr(config, name) for name in OPTIONS if hasattr(config, name)}
        self.ours = config_of(config.hidden_size, scorer_type="decoder-kv", **given)
        self.plain = initialized(section_scorer.Scorer(self.ours, OPS, lambda _: OPS))

    def recurrent_forward(
        self,
        hidden_states: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        num_steps: int = 1,
        halt_threshold: float | None = None,
        return_all_steps: bool = False,
        text_hidden_states: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        return_representations: bool = False,
    ) -> tuple[Any, ...]:
        """Maps hidden states [N, S, C] to logits [N, L] of the last step, or of every step."""
        ids = real(input_ids, attention_mask)
        sections = pack([section_of(own, self.config.class_token_index) for own in ids])
        rows, text = torch.cat(real(hidden_states, attention_mask)), None
        if text_hidden_states is not None and text_attention_mask is not None:
            own = real(text_hidden_states, text_attention_mask)
            ends = torch.tensor([len(each) for each in own]).cumsum(0).int()
            spans = torch.stack((torch.cat((ends.new_zeros(1), ends[:-1])), ends), dim=1)
            text = Text(torch.cat(own), spans)
        found, taken = self._run(rows, sections, text, num_steps, halt_threshold)
        steps = range(1, taken + 1) if return_all_steps else [taken]
        passes = [self._run(rows, sections, text, count, halt_threshold)[0] for count in steps]
        counts = sections.cu_labels.diff().tolist()
        logits = [self._padded(each, counts) for each in passes]
        steps_taken = torch.full((len(ids),), taken)
        if not return_representations:
            return logits, steps_taken
        labels = pad_sequence(list(found[2].split(counts)), batch_first=True)
        return logits, steps_taken, (found[1], labels)

    def _run(
        self, rows: Tensor, sections: PackedBatch, text: Text | None, steps: int, halt: float | None
    ) -> tuple[Any, int]:
        """Runs a number of steps at most, and counts those that were taken: each encodes once."""
        scorer, calls = deepcopy(self.plain), []
        scorer.config, scorer.steps = replace(self.ours, recurrent_halt_threshold=halt or 0.0), steps
        prepare(scorer)
        scorer.encoder.register_forward_hook(lambda *_: calls.append(1))
        represented = scorer.encoder.represented  # what a single step calls in place of the whole encoder

        def counted(*given: Any) -> Any:
            calls.append(1)
            return represented(*given)

        scorer.encoder.represented = counted
        with torch.inference_mode():
            return scorer(rows, sections, text), len(calls)

    def _padded(self, scored: Any, counts: list[int]) -> Tensor:
        """Pads logits [L] to [N, L] with those of an empty label, as the reference does."""
        empty = self.mlp(torch.cat((scored[1], torch.zeros_like(scored[1])), dim=1))
        parts = zip(scored[0].split(counts), empty, counts, strict=True)
        rows = [torch.cat((own, slot.expand(max(counts) - count))) for own, slot, count in parts]
        return torch.stack(rows)

    def forward(self, hidden_states: Tensor, input_ids: Tensor, attention_mask: Tensor, **rest: Any) -> Any:
        return self.recurrent_forward(hidden_states, input_ids, attention_mask, **rest)[0][-1]

    def mlp(self, pairs: Tensor) -> Tensor:
        """Compares pairs [*, 2C] of a text and a label."""
        parts = self.plain.classifier
        hidden = F.linear(pairs, parts.first.whole.weight, parts.first.whole.bias).relu()
        hidden = F.linear(hidden, parts.second.weight, parts.second.bias).relu()
        return F.linear(hidden, parts.last.weight, parts.last.bias)

    def _extract_representations(
        self, hidden_states: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the rows that stand for texts [N, C] and labels [N, L, C]."""
        ids = real(input_ids, attention_mask)
        sections = pack([section_of(own, self.config.class_token_index) for own in ids])
        texts, labels = section_scorer.represented(torch.cat(real(hidden_states, attention_mask)), sections)
        return texts, pad_sequence(list(labels.split(sections.cu_labels.diff().tolist())), batch_first=True)


class GLiClassDecoderKV:
    @staticmethod
    def _extract_label_section(
        model: Any,
        hidden_states: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        return_text_section: bool = False,
    ) -> tuple[Tensor, ...]:
        """Returns the rows and the ids of label sections, padded, and what is not padding of them."""
        config: Any = SimpleNamespace(**vars(model.config), sep_token_index=model.sep_token_id)
        found = real(input_ids, attention_mask)
        batch = pack([prompt_of_section_ids(ids.int().numpy(), config) for ids in found])
        assert batch.label_prompts is not None
        rows = torch.cat(real(hidden_states, attention_mask))
        lengths = batch.label_prompts.cu_seqlens.diff().tolist()
        own = [
            rows[section_places(batch)].split(lengths),
            batch.label_prompts.token_ids.long().split(lengths),
            [torch.ones(length, dtype=torch.int64) for length in lengths],
        ]
        if return_text_section:
            texts = [rows[start:end] for start, end in batch.text_spans.tolist()]
            own += [texts, [torch.ones(len(text), dtype=torch.int64) for text in texts]]
        return tuple(pad_sequence(list(each), batch_first=True) for each in own)


OPS = choose_ops("cpu", torch.float32, "reference")
NAMES = {"DecoderKVScorer": DecoderKVScorer, "GLiClassDecoderKV": GLiClassDecoderKV}
