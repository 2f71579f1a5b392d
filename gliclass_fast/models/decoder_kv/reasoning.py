"""The reasoning cell of `decoder-kv`'s scorer: a step of a GRU (Cho et al., arXiv:1406.1078) whose candidate
state the scorer's encoder makes.

    reset = sigmoid(W_r [h; x])      candidate = encoder(reset * h + (1 - reset) * x + read(h))
    update = sigmoid(W_z [h; c])     h' = (1 - update) * h + update * candidate

h is the state of the label section, x its normed hidden states, and c the candidate. read(h), which some
checkpoints have, is attention of the normed state to the normed hidden states of the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.backbone_config import BackboneConfig
from gliclass_fast.models.layers import Linear
from gliclass_fast.ops import Ops

WEIGHTS = affine(
    {"reset": "reset_gate", "update": "update_gate", "q": "read_q", "kv": ["read_k", "read_v"]}
    | {"out": "read_out"}
)


@dataclass(frozen=True, slots=True)
class Text:
    """Holds hidden states [T, C], and the range of them that every section looks at, int32 [N, 2]."""

    rows: Tensor
    spans: Tensor


Memory = tuple[Tensor, Tensor, Tensor]  # keys and values of a text [T, H, D], and the spans


class ReasoningCell(nn.Module):
    def __init__(self, config: ModelConfig, encoder: BackboneConfig, ops: Ops) -> None:
        super().__init__()
        width = config.hidden_size
        self.ops, self.num_heads = ops, encoder.num_attention_heads
        self.reset, self.update = (Linear(2 * width, width, ops) for _ in range(2))
        if config.recurrent_read_text:
            self.q, self.kv = Linear(width, width, ops), Linear(width, 2 * width, ops)
            self.out = Linear(width, width, ops)

    def normalize(self, rows: Tensor) -> Tensor:
        """Returns LayerNorm without weights, [S, C] -> [S, C]."""
        return F.layer_norm(rows.float(), rows.shape[1:]).to(rows.dtype)

    def prepare(self, text: Text) -> Memory:
        """Returns the keys and values of a text, which all steps share."""
        rows = self.kv(self.normalize(text.rows)).view(len(text.rows), 2, self.num_heads, -1)
        return rows[:, 0], rows[:, 1], text.spans

    def forward(
        self,
        state: Tensor,
        given: Tensor,
        sections: PackedBatch,
        encode: Callable[[Tensor, PackedBatch], Tensor],
        memory: Memory | None,
    ) -> Tensor:
        """Returns the next state, [S, C]; `given` are the normed hidden states."""
        reset = self.reset(torch.cat((state, given), dim=-1)).sigmoid()
        mixed = torch.lerp(given, state, reset)
        if memory is not None:
            mixed = mixed + self._read(state, sections, memory)
        candidate = encode(mixed, sections)
        update = self.update(torch.cat((state, candidate), dim=-1)).sigmoid()
        return torch.lerp(state, candidate, update)

    def _read(self, state: Tensor, sections: PackedBatch, memory: Memory) -> Tensor:
        keys, values, spans = memory
        queries = self.q(self.normalize(state)).view(len(state), self.num_heads, -1)
        found = self.ops.cross_attention(queries, keys, values, sections.sequences.with_keys(spans))
        return self.out(found)
