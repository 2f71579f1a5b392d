"""GliZNet's aggregator: the hidden states of a text and its labels become a score per label.

Several architectures share one model type; the names of a checkpoint's tensors tell which one it is:

| variant | label vector              | text vector                          | score                    |
|---------|---------------------------|--------------------------------------|--------------------------|
| 0       | mean of its tokens, [LAB] | [CLS]                                | cosine, dot or bilinear  |
| A       | mean of its tokens, [LAB] | attention, 1 / max(|temperature|, 0.1) | cosine, dot or bilinear |
| B, C    | [LAB]                     | attention, 1 / sqrt(width)           | bilinear; C: or cosine   |
| D       | [LAB], of unit length     | attention, exp(temperature)          | as C                     |

Attention is that of the label over the text's rows, [CLS] and [SEP] among them (kernels/attention_pool.py).
Where labels are means of their tokens, the [LAB] rows count as text. Variants 0 and A may project text and
labels. Labels of variant D may read each other and their text first (`LabelContext`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.weights import Checkpoint, Weights, affine
from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.models.architectures import Output
from gliclass_fast.models.gliznet.config import GliznetConfig
from gliclass_fast.models.layers import Linear, Norm
from gliclass_fast.models.pooling import within
from gliclass_fast.ops import Ops, Sequences

CONTEXT_HEADS = 8
NORM_EPS = 1e-5
# Only this variant, or one in a row above, has one of these tensors; the first row that matches decides.
_SIGNS = {
    "D": ("attn_temperature",),
    "C": ("scoring.bilinear.weight", "scoring.logit_scale"),
    "B": ("bilinear.weight",),
    "A": ("attention_temperature",),
    "0": ("similarity_head.logit_scale", "similarity_head.classifier.weight"),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """Says what a checkpoint has; names start behind `aggregator.`."""

    variant: str
    score: str  # cosine, dot or bilinear
    pair: str  # the name of the tensors of dot and bilinear scores
    scale: str  # the name of the scale of cosine scores
    temperature: str | None
    projected: int | None  # the width of projected vectors
    norms: bool  # whether norms follow the projections
    context: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Parts:
        """Reads which parts there are; raises CheckpointError for tensors of no known variant."""

        def shape(name: str) -> torch.Size | None:
            return checkpoint.shape(f"aggregator.{name}")

        def has(name: str) -> bool:
            return shape(name) is not None

        variant = next((v for v, names in _SIGNS.items() if any(map(has, names))), None)
        if variant is None:
            raise CheckpointError(
                f"{checkpoint.source}: no known variant of GliZNet has these tensors; each has one of: "
                + ", ".join(f"aggregator.{name} ({v})" for v, names in _SIGNS.items() for name in names)
            )
        old = variant in "0A"
        pair = "similarity_head.classifier" if old else "bilinear" if variant == "B" else "scoring.bilinear"
        weight, projection = shape(f"{pair}.weight"), shape("text_projector.0.weight")
        return cls(
            variant=variant,
            score="cosine" if weight is None else "bilinear" if len(weight) == 3 else "dot",
            pair=pair,
            scale="similarity_head.logit_scale" if old else "scoring.logit_scale",
            temperature={"A": "attention_temperature", "D": "attn_temperature"}.get(variant),
            projected=projection[0] if old and projection else None,
            norms=has("text_projector.1.weight"),
            context=variant == "D" and has("label_context.fuse.weight"),
        )

    def check(self, config: GliznetConfig) -> None:
        """Raises UnsupportedConfigError where config.json says something else than the tensors."""
        old = self.variant in "0A"
        said = {"similarity_metric": config.similarity_metric} if old else {}
        if self.variant in "CD":
            said["scoring_method"] = config.scoring_method
        for option, value in said.items():
            if value not in (None, self.score):
                raise UnsupportedConfigError(
                    f"{option}={value!r}, but the tensors are of variant {self.variant} with {self.score!r}"
                )
        if self.variant == "D" and config.enrich_labels not in (None, self.context):
            raise UnsupportedConfigError(
                f"enrich_labels={config.enrich_labels!r}, but tensors of a label context are "
                f"{'there' if self.context else 'missing'}"
            )

    @property
    def weights(self) -> Weights:
        attention = "label_context.attn"
        return {
            "scale": (self.scale,),
            "temperature": (self.temperature or "",),
            "pair.weight": (f"{self.pair}.weight",),
            "pair.bias": (f"{self.pair}.bias",),
            "context.inward.weight": (f"{attention}.in_proj_weight",),
            "context.inward.bias": (f"{attention}.in_proj_bias",),
            **affine({"context.outward": f"{attention}.out_proj", "context.fuse": "label_context.fuse"}),
            **affine(
                {
                    f"{side}.{ours}": f"{side}_projector.{number}"
                    for side in ("text", "label")
                    for number, ours in enumerate(("linear", "norm"))
                }
            ),
        }


class Projection(nn.Module):
    """Runs a linear map, and a LayerNorm behind it if there is one, [*, C] -> [*, P]."""

    def __init__(self, width: int, projected: int, norms: bool, ops: Ops) -> None:
        super().__init__()
        self.linear = Linear(width, projected, ops)
        self.norm = Norm(projected, ops, NORM_EPS) if norms else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.norm is None else self.norm(x)


class LabelContext(nn.Module):
    """Lets labels attend to the labels of their text, each fused with its text vector, [L, C] -> [L, C]."""

    def __init__(self, width: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.fuse = Linear(2 * width, width, ops)
        self.inward, self.outward = Linear(width, 3 * width, ops), Linear(width, width, ops)

    def fold_weights(self) -> None:
        """Splits the first map: queries come from labels alone, keys and values from labels with texts."""
        width, weight, bias = len(self.fuse.weight), self.inward.weight, self.inward.bias
        self.q, self.kv = (
            Linear.of(weight[:width], bias[:width], self.ops),
            Linear.of(weight[width:], bias[width:], self.ops),
        )
        del self.inward

    def forward(self, labels: Tensor, texts: Tensor, batch: PackedBatch) -> Tensor:
        count, fused = len(labels), self.fuse(torch.cat((labels, texts), dim=1))
        q = self.q(labels).view(count, CONTEXT_HEADS, -1)
        kv = self.kv(fused).view(count, 2, CONTEXT_HEADS, -1)
        own = torch.stack((batch.cu_labels[:-1], batch.cu_labels[1:]), dim=1)
        sequences = batch.label_sequences(batch.text_spans).with_keys(own)
        found = self.ops.cross_attention(q, *kv.unbind(1), sequences)
        return F.normalize(labels + self.outward(found), dim=-1)


class Aggregator(nn.Module):
    def __init__(self, config: GliznetConfig, parts: Parts, ops: Ops) -> None:
        super().__init__()
        parts.check(config)
        self.config, self.parts, self.ops = config, parts, ops
        width = config.backbone_config.hidden_size
        self.text = self.label = None
        if parts.projected:
            self.text, self.label = (Projection(width, parts.projected, parts.norms, ops) for _ in range(2))
        compared = parts.projected or width
        self.scale = self.temperature = self.pair = None
        if parts.score == "cosine":
            self.scale = nn.Parameter(torch.empty(()), requires_grad=False)
        else:
            dot = parts.score == "dot"
            self.pair = nn.Linear(compared, 1) if dot else nn.Bilinear(compared, compared, 1)
        if parts.temperature:
            self.temperature = nn.Parameter(torch.empty(()), requires_grad=False)
        self.context = LabelContext(width, ops) if parts.context else None

    def load_weights(self, checkpoint: Checkpoint) -> None:
        checkpoint.load_weights(self, self.parts.weights, "aggregator.")

    def fold_weights(self) -> None:
        """Turns parameters into numbers, a bilinear form into a map of labels, a dot product into factors."""
        variant, width = self.parts.variant, self.config.backbone_config.hidden_size
        temperature = 0.0 if self.temperature is None else self.temperature.item()
        sharpness = {"A": 1 / max(abs(temperature), 0.1), "D": math.exp(temperature)}
        self.sharpness = sharpness.get(variant, width**-0.5)
        if self.scale is not None:
            scale = self.scale.item()
            old = variant in "0A"
            self.factor = math.exp(max(-10.0, min(scale, 10.0))) if old else min(math.exp(scale), 100.0)
        elif self.parts.score == "bilinear":
            assert self.pair is not None
            self.form, self.offset = Linear.of(self.pair.weight[0], None, self.ops), self.pair.bias
        else:
            assert self.pair is not None
            self.factors, self.offset = self.pair.weight[0], self.pair.bias
        self.scale = self.temperature = self.pair = None

    def forward(self, rows: Tensor, batch: PackedBatch) -> Output:
        """Scores all labels, from the backbone's last hidden states `rows`, [T, C]."""
        if self.parts.variant == "D":
            rows = F.normalize(rows, dim=-1)
        labels = self._labels(rows, batch)
        if self.parts.variant == "0":
            first = rows[within(rows, batch.cu_seqlens[:-1])]
            texts = (first if self.text is None else self.text(first))[batch.label_text]
        else:
            keys = self._text_rows(rows if self.text is None else self.text(rows), batch)
            texts = self.ops.attention_pool(labels, *keys, self.sharpness)
            if self.context is not None:
                labels = self.context(labels, texts, batch)
                texts = self.ops.attention_pool(labels, *keys, self.sharpness)
        return Output(self._score(texts, labels), None, texts, labels)

    @property
    def means(self) -> bool:
        """Tells whether a label is the mean of its tokens."""
        return self.parts.variant in "0A" and not self.config.use_lab_token_for_labels

    def _labels(self, rows: Tensor, batch: PackedBatch) -> Tensor:
        """Returns the label vectors, [L, P]; a label's span ends with its [LAB]."""
        starts, separators = batch.label_spans[:, 0], batch.label_spans[:, 1] - 1
        if not self.means:
            own = rows[within(rows, separators)]
            return own if self.label is None else self.label(own)
        projected = rows if self.label is None else self.label(rows)
        sums = self.ops.segment_pool(projected, torch.stack((starts, separators), dim=1), "sum")
        return sums / (separators - starts).clamp(min=1)[:, None]

    def _text_rows(self, rows: Tensor, batch: PackedBatch) -> tuple[Tensor, Sequences]:
        """Returns the rows that count as text, and which of them the labels see."""
        sequences = batch.label_sequences(batch.text_spans)
        if not self.means:
            return rows, sequences
        starts, lengths = batch.text_spans[:, 0], batch.text_spans.diff(dim=1)[:, 0]
        bounds = F.pad((lengths + batch.cu_labels.diff()).cumsum(0, dtype=torch.int32), (1, 0))
        place = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
        owner = torch.searchsorted(bounds[1:].contiguous(), place, right=True).clamp(max=len(lengths) - 1)
        within_text = place - bounds[owner]
        label = batch.cu_labels[owner] + within_text - lengths[owner]
        separators = batch.label_spans[label.clamp(0, len(batch.label_spans) - 1), 1] - 1
        source = torch.where(within_text < lengths[owner], starts[owner] + within_text, separators)
        spans = torch.stack((bounds[:-1], bounds[1:]), dim=1)
        return rows[within(rows, source)], sequences.with_keys(spans)

    def _score(self, texts: Tensor, labels: Tensor) -> Tensor:
        """Scores every text vector with its label, both [L, P] -> [L]."""
        if self.parts.score == "cosine":
            pairs = F.normalize(texts.float(), dim=-1) * F.normalize(labels.float(), dim=-1)
            return (pairs.sum(dim=-1) * self.factor).to(texts.dtype)
        own = torch.arange(len(labels), dtype=torch.int32, device=labels.device)
        if self.parts.score == "dot":
            logits: Tensor = self.ops.pair_dot(texts * self.factors, labels, own)
        else:
            logits = self.ops.pair_dot(texts, self.form(labels), own)
        return logits + self.offset
