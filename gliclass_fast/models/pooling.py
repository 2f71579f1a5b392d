"""Pooling, projectors, the LSTM and the layer mixer: they make text and label vectors of hidden states.

The reference pools over a padded buffer. With `extract_text_features` it therefore pools over one slot per
token of the whole prompt, and only the text part is filled; `slots` reproduces that at batch size 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from gliclass_fast.batch import PackedBatch
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.layers import Linear
from gliclass_fast.ops import Ops

NORMALIZE_EPS = 1e-8  # that of the reference, in both ways in which it normalises

Pooling = Callable[[Tensor, Tensor, Tensor, Ops], Tensor]


def _filled(spans: Tensor) -> Tensor:
    return spans[:, 1] - spans[:, 0]


def within(rows: Tensor, places: Tensor) -> Tensor:
    """Returns row numbers, [M]; those behind the last row, which only padding has, become the last."""
    return places.clamp(max=len(rows) - 1)


def _max(rows: Tensor, spans: Tensor, slots: Tensor, ops: Ops) -> Tensor:
    highest = ops.segment_pool(rows, spans, "max")
    return torch.where((_filled(spans) < slots)[:, None], highest.clamp(min=0), highest)


def _sum(reduce: str, mean: bool = False, root: bool = False) -> Pooling:
    """Returns a pooling that reduces a span, divides by its slots for a mean, and may take the root."""

    def pool(rows: Tensor, spans: Tensor, slots: Tensor, ops: Ops) -> Tensor:
        pooled = ops.segment_pool(rows, spans, reduce)
        pooled = pooled / slots[:, None] if mean else pooled
        return pooled.sqrt() if root else pooled

    return pool


# They map (rows [T, C], spans [N, 2], slots [N], ops) to [N, C]; "pass" keeps all rows, [T, C].
TEXT_POOLINGS: dict[str, Pooling] = {
    "first": lambda rows, spans, slots, ops: rows[within(rows, spans[:, 0])],
    "last": lambda rows, spans, slots, ops: rows[spans[:, 1] - 1] * (_filled(spans) == slots)[:, None],
    "sum": _sum("sum"),
    "avg": _sum("sum", mean=True),
    "max": _max,
    "rms": _sum("square_sum", mean=True, root=True),
    "abs_max": _sum("abs_max"),
    "abs_avg": _sum("abs_sum", mean=True),
    "pass": lambda rows, spans, slots, ops: rows,
}


def whole(batch: PackedBatch) -> Tensor:
    """Returns the spans of all sequences, [N, 2]."""
    return torch.stack((batch.cu_seqlens[:-1], batch.cu_seqlens[1:]), dim=1)


def text_spans(batch: PackedBatch, config: ModelConfig) -> Tensor:
    """Returns the spans that text vectors are pooled from, [N, 2]: the text parts, or whole prompts."""
    if config.extract_text_features:
        return batch.text_spans
    return whole(batch)


def pool_text(rows: Tensor, batch: PackedBatch, config: ModelConfig, ops: Ops) -> Tensor:
    """Returns text vectors [N, C], or all rows [T, C] for "pass"."""
    spans = text_spans(batch, config)
    slots = _filled(spans) if config.use_lstm else batch.cu_seqlens.diff()
    return TEXT_POOLINGS[config.pooling_strategy](rows, spans, slots, ops)


def pool_whole(rows: Tensor, batch: PackedBatch, pooling: str, ops: Ops) -> Tensor:
    """Returns a vector per sequence from all of its rows, [N, C], or all rows [T, C] for "pass"."""
    return TEXT_POOLINGS[pooling](rows, whole(batch), batch.cu_seqlens.diff(), ops)


def pool_labels(rows: Tensor, batch: PackedBatch, config: ModelConfig, ops: Ops) -> Tensor:
    """Returns label vectors [L, C]: the row of <<LABEL>> or the one after it, or the mean over its span."""
    starts = batch.label_spans[:, 0] + (0 if config.embed_class_token else 1)
    if config.class_token_pooling == "first":
        return rows[within(rows, starts)]
    ends = batch.label_spans[:, 1]
    sums = ops.segment_pool(rows, torch.stack((starts, ends), dim=1), "sum")
    return sums / (ends - starts).clamp(min=1)[:, None]


def normalize_plus_eps(vectors: Tensor) -> Tensor:
    """Divides vectors by their length plus NORMALIZE_EPS, as uni-encoders and decoder-kv do."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / (lengths + NORMALIZE_EPS)


def normalize_min_eps(vectors: Tensor) -> Tensor:
    """Divides vectors by their length, NORMALIZE_EPS at least, as bi-encoders and encoder-decoders do."""
    return F.normalize(vectors, dim=-1, eps=NORMALIZE_EPS)


class Projector(nn.Module):
    """Maps x to linear_2(activation(linear_1(x))), [*, width] -> [*, the backbone's width]."""

    def __init__(self, config: ModelConfig, ops: Ops, width: int | None = None) -> None:
        """Takes the width of what is projected; default: the backbone's."""
        super().__init__()
        self.activation = config.projector_hidden_act
        self.linear_1 = Linear(width or config.backbone_config.hidden_size, config.hidden_size, ops)
        self.linear_2 = Linear(config.hidden_size, config.backbone_config.hidden_size, ops)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.linear_1(x, self.activation))


class TextLstm(nn.Module):
    """Runs a bidirectional LSTM over the text rows of every prompt, [T, C] -> [T, C]; other rows stay."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(config.hidden_size, config.hidden_size // 2, bidirectional=True)

    def forward(self, rows: Tensor, spans: Tensor) -> Tensor:
        bounds = spans.tolist()
        packed, _ = self.lstm(pack_sequence([rows[start:end] for start, end in bounds], enforce_sorted=False))
        out = rows.clone()
        for (start, end), mixed in zip(bounds, unpack_sequence(packed), strict=True):
            out[start:end] = mixed
        return out


class LayerMixer(nn.Module):
    """Does squeeze-and-excitation over layers: it gates their states per prompt, sums and projects them."""

    def __init__(self, config: ModelConfig, ops: Ops, layers: int) -> None:
        super().__init__()
        width = config.backbone_config.hidden_size
        self.ops, self.layers = ops, layers
        self.squeeze = Linear(width, 1, ops)
        self.W1 = Linear(layers, layers // 2, ops)
        self.W2 = Linear(layers // 2, layers, ops)
        self.output_projection = Linear(width, width, ops)

    def forward(self, states: Sequence[Tensor], batch: PackedBatch) -> Tensor:
        """Mixes the embedding output and all layers' outputs; a mixer of n gates takes the last n of them."""
        states = states[-self.layers :]
        squeezed = torch.cat([self.squeeze(state) for state in states], dim=1)
        means = self.ops.segment_pool(squeezed, whole(batch), "sum") / batch.cu_seqlens.diff()[:, None]
        gates = self.W2(self.W1(means, "relu")).sigmoid()
        places = torch.arange(squeezed.shape[0], dtype=torch.int32, device=squeezed.device)
        owner = torch.searchsorted(batch.cu_seqlens[1:].contiguous(), places, right=True)
        gates = gates[owner.clamp(max=len(gates) - 1)]  # rows of padding have no owner
        mixed = torch.zeros_like(states[0])
        for gate, state in zip(gates.unbind(1), states, strict=True):
            mixed += gate[:, None] * state
        return self.output_projection(mixed)
