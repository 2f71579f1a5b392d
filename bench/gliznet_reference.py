"""GliZNet in plain torch over padded batches: the engine's GliZNet is compared with it.

There is no package to compare with. This file follows the formulas of all variants (the table in
`models/gliznet/aggregator.py`), and its tensors have the names that checkpoints give them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel


@dataclass(frozen=True, slots=True)
class Options:
    variant: str = "D"  # 0, A, B, C or D
    metric: str = "bilinear"  # cosine, dot (0 and A) or bilinear
    projected: int | None = None  # the width of projections, for 0 and A
    norms: bool = False
    lab_tokens: bool = True  # for 0 and A: labels are their [LAB], not the mean of their tokens
    enrich_labels: bool = True  # for D


def _projector(width: int, options: Options) -> nn.Module:
    if options.projected is None:
        return nn.Identity()
    norms = [nn.LayerNorm(options.projected)] if options.norms else []
    return nn.Sequential(nn.Linear(width, options.projected), *norms)


class _Score(nn.Module):
    """Scores pairs, as `similarity_head` of 0 and A and as `scoring` of C and D."""

    def __init__(self, width: int, metric: str, old: bool) -> None:
        super().__init__()
        self.metric, self.old = metric, old
        if old or metric == "cosine":
            self.logit_scale = nn.Parameter(torch.tensor(2.0))
        if old and metric == "dot":
            self.classifier: nn.Module = nn.Linear(width, 1)
        elif old and metric == "bilinear":
            self.classifier = nn.Bilinear(width, width, 1)
        elif metric == "bilinear":
            self.bilinear = nn.Bilinear(width, width, 1)

    def forward(self, texts: Tensor, labels: Tensor) -> Tensor:
        """Scores texts and labels, [B, K, P] each -> [B, K]."""
        if self.metric == "bilinear":
            form = self.classifier if self.old else self.bilinear
            return form(texts.contiguous(), labels.contiguous())[..., 0]  # type: ignore[no-any-return]
        if self.metric == "dot":
            return self.classifier(texts * labels)[..., 0]  # type: ignore[no-any-return]
        factor = self.logit_scale.clamp(-10, 10).exp() if self.old else self.logit_scale.exp().clamp(max=100)
        return (F.normalize(texts, dim=-1) * F.normalize(labels, dim=-1)).sum(-1) * factor


class _Context(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fuse = nn.Linear(2 * width, width)
        self.attn = nn.MultiheadAttention(width, 8, batch_first=True)

    def forward(self, labels: Tensor, texts: Tensor, absent: Tensor) -> Tensor:
        fused = self.fuse(torch.cat((labels, texts), dim=-1))
        found, _ = self.attn(labels, fused, fused, key_padding_mask=absent, need_weights=False)
        return F.normalize(labels + found, dim=-1)


class _Aggregator(nn.Module):
    def __init__(self, width: int, options: Options) -> None:
        super().__init__()
        self.options, old = options, options.variant in "0A"
        if old:
            self.text_projector, self.label_projector = (_projector(width, options) for _ in range(2))
            self.similarity_head = _Score(options.projected or width, options.metric, old)
        elif options.variant == "B":
            self.bilinear = nn.Bilinear(width, width, 1)
        else:
            self.scoring = _Score(width, options.metric, old)
        if options.variant == "A":
            self.attention_temperature = nn.Parameter(torch.tensor(1.0))
        if options.variant == "D":
            self.attn_temperature = nn.Parameter(torch.tensor(1.0))
            if options.enrich_labels:
                self.label_context = _Context(width)

    def sharpness(self, width: int) -> Tensor | float:
        if self.options.variant == "A":
            return 1 / self.attention_temperature.abs().clamp(min=0.1)
        return self.attn_temperature.exp() if self.options.variant == "D" else width**-0.5

    def forward(self, hidden: Tensor, separators: Tensor, attention_mask: Tensor, lmask: Tensor) -> Tensor:
        """Scores labels, [B, K]; padded ones mean nothing. `separators` [B, S] says where a [LAB] is."""
        options, (batch, _, width) = self.options, hidden.shape
        old = options.variant in "0A"
        if options.variant == "D":
            hidden = F.normalize(hidden, dim=-1)
        means = old and not options.lab_tokens
        is_text = (lmask == 0) & (attention_mask == 1) & (means | ~separators)
        texts, label_rows = hidden, hidden
        if old:
            texts, label_rows = self.text_projector(hidden), self.label_projector(hidden)
        counts = separators.sum(1)
        if means:
            most = int(counts.max())
            members = F.one_hot(lmask, most + 1)[..., 1:].to(hidden.dtype)
            labels = members.mT @ label_rows / members.sum(1).clamp(min=1)[..., None]
        else:
            labels = pad_sequence([label_rows[i][separators[i]] for i in range(batch)], batch_first=True)
        absent = torch.arange(labels.shape[1], device=counts.device) >= counts[:, None]

        def pool(queries: Tensor) -> Tensor:
            scores = queries @ texts.mT * self.sharpness(width)
            return scores.masked_fill(~is_text[:, None], float("-inf")).softmax(-1) @ texts

        found = texts[:, :1].expand_as(labels) if options.variant == "0" else pool(labels)
        if options.variant == "D" and options.enrich_labels:
            labels = self.label_context(labels, found, absent)
            found = pool(labels)
        if options.variant == "B":
            return self.bilinear(found.contiguous(), labels.contiguous())[..., 0]  # type: ignore[no-any-return]
        score: Tensor = (self.similarity_head if old else self.scoring)(found, labels)
        return score


class GliZNet(nn.Module):
    """Runs GliZNet with a transformers `backbone_config`, whose vocabulary has the [LAB] token."""

    def __init__(self, backbone_config: Any, lab_token_id: int, options: Options | None = None) -> None:
        super().__init__()
        options = options or Options()
        self.lab_token_id, self.options = lab_token_id, options
        self.backbone = AutoModel.from_config(backbone_config)
        self.aggregator = _Aggregator(backbone_config.hidden_size, options)

    def config_json(self) -> dict[str, Any]:
        """Returns what the config.json of such a checkpoint holds."""
        return {
            "model_type": "gliznet",
            "backbone_config": self.backbone.config.to_dict(),
            "lab_token_id": self.lab_token_id,
            "use_lab_token_for_labels": self.options.lab_tokens,
            "similarity_metric": self.options.metric,
            "scoring_method": self.options.metric,
            "enrich_labels": self.options.enrich_labels,
        }

    def forward(self, input_ids: Tensor, attention_mask: Tensor, lmask: Tensor) -> list[Tensor]:
        """Returns the logits [labels] of every text of a padded batch; each argument is [B, S]."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        separators = input_ids == self.lab_token_id
        logits = self.aggregator(hidden, separators, attention_mask, lmask)
        return [row[:count] for row, count in zip(logits, separators.sum(1).tolist(), strict=True)]


def written_reference(aggregator: Any, backbone_config: dict[str, Any]) -> GliZNet:
    """Makes the reference of an engine's `Aggregator`, with the backbone's part of its config.json."""
    parts, config = aggregator.parts, aggregator.config
    options = Options(
        parts.variant,
        parts.score,
        parts.projected,
        parts.norms,
        config.use_lab_token_for_labels,
        parts.context,
    )
    return GliZNet(AutoConfig.for_model(**backbone_config), config.lab_token_id, options).float()
