"""The scorer of `decoder-kv`: DeBERTa layers read the label section in both directions, then a ReLU network
reads [text; label].

A section holds every label with its <<LABEL>> behind it, and ends with a <<SEP>>. The row of that last token
stands for the text, and the row of <<LABEL>> for its label. In tokens that a caller made, a section may go on
behind its last <<SEP>>, or have none: zeros then stand for the text, as in the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint, affine
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.decoder_kv.reasoning import WEIGHTS as CELL_WEIGHTS
from gliclass_fast.models.decoder_kv.reasoning import ReasoningCell, Text
from gliclass_fast.models.encoders import deberta_v2
from gliclass_fast.models.layers import Embedding, Linear, PairLinear, both
from gliclass_fast.models.pooling import normalize_plus_eps
from gliclass_fast.ops import Ops, OpsOf

HEAD_WIDTH = 64
MAX_DISTANCE = 512
NORM_EPS = 1e-7
Scored = tuple[Tensor, Tensor, Tensor]  # logits [L], text vectors [N, C] and label vectors [L, C]
CLASSIFIER_WEIGHTS = affine(
    {"text": "text_projector", "label": "label_projector", "first.whole": "mlp.0"}
    | {"second": "mlp.2", "last": "mlp.4"}
)


def encoder_config(config: ModelConfig) -> deberta_v2.Config:
    """Returns the configuration of the layers, of which a checkpoint says how many there are."""
    width = config.hidden_size
    heads = max(1, width // HEAD_WIDTH)
    return deberta_v2.Config(
        vocab_size=0,
        hidden_size=width,
        num_hidden_layers=config.scorer_encoder_num_layers,
        num_attention_heads=heads,
        head_width=width // heads,
        intermediate_size=4 * width,
        activation="gelu",
        norm_eps=NORM_EPS,
        max_positions=None,
        embedding_size=width,
        type_vocab_size=0,
        position_table=0,
        relative=True,
        position_buckets=-1,
        max_distance=MAX_DISTANCE,
        norm_distances=False,
        share_att_key=False,
        position_terms=("p2c", "c2p"),
        conv_kernel_size=0,
        conv_groups=1,
        conv_activation="tanh",
    )


class SectionEncoder(nn.Module):
    """Runs DeBERTa's layers over rows that are given, [S, C] -> [S, C]."""

    def __init__(self, config: deberta_v2.Config, ops: Ops) -> None:
        super().__init__()
        self.config = config
        self.rel_embeddings: Embedding | None = Embedding(2 * config.span, config.hidden_size)
        self.layers = nn.ModuleList(deberta_v2.Layer(config, ops) for _ in range(config.num_hidden_layers))

    def fold_weights(self) -> None:
        """Projects the position table, for every layer."""
        assert self.rel_embeddings is not None
        rel = self.rel_embeddings.weight.float()
        buckets = deberta_v2.bucket_of(self.config).to(rel.device)
        for layer in self.layers:
            assert isinstance(layer, deberta_v2.Layer)
            layer.fold_tables(rel, buckets)
        self.rel_embeddings = None

    def forward(self, rows: Tensor, sections: PackedBatch) -> Tensor:
        for layer in self.layers:
            rows = layer(rows, sections)
        return rows

    def represented(self, rows: Tensor, sections: PackedBatch) -> tuple[Tensor, Tensor]:
        """Returns `represented` of what `forward` returns; the last layer finishes no other rows."""
        *layers, last = self.layers
        for layer in layers:
            rows = layer(rows, sections)
        assert isinstance(last, deberta_v2.Layer)
        attended = last.attention(rows, sections)
        kept_rows, kept = (torch.cat(represented(each, sections)) for each in (rows, attended))
        finished, count = last.after_attention(kept_rows, kept, None), sections.capacity.prompts
        return finished[:count], finished[count:]


def represented(rows: Tensor, sections: PackedBatch) -> tuple[Tensor, Tensor]:
    """Returns the rows that stand for texts, [N, C], and for labels, [L, C]."""
    return rows[sections.text_spans[:, 1] - 1], rows[sections.label_spans[:, 1] - 1]


class PairClassifier(nn.Module):
    """Makes vectors of encoded rows, and compares them."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.scorer_mlp_hidden_size
        self.normalizes = config.normalize_features
        self.text, self.label = Linear(width, width, ops), Linear(width, width, ops)
        self.first = PairLinear(width, width, hidden, ops)
        self.second = Linear(hidden, hidden // 2, ops)
        self.last = Linear(hidden // 2, 1, ops)

    def forward(self, text_rows: Tensor, label_rows: Tensor, sections: PackedBatch) -> Scored:
        if sections.lacks_texts:  # the row of such a text is any
            text_rows = torch.where(sections.text_spans.diff(dim=1) > 0, text_rows, 0)
        texts, labels = both((self.text, self.label), (text_rows, label_rows))
        if self.normalizes:
            texts, labels = normalize_plus_eps(texts), normalize_plus_eps(labels)
        hidden = self.first(texts, labels, sections, "relu")
        return self.last(self.second(hidden, "relu"))[:, 0], texts, labels


class Scorer(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops, ops_of: OpsOf) -> None:
        super().__init__()
        own = encoder_config(config)
        self.config, self.ops = config, ops
        self.encoder, self.classifier = SectionEncoder(own, ops_of(own)), PairClassifier(config, ops)
        self.cell: Any = ReasoningCell(config, own, ops) if config.recurrent_steps > 1 else None
        self.steps = 1
        if self.cell is not None and config.recurrent_inference:
            self.steps = config.recurrent_inference_max_steps or config.recurrent_steps

    @property
    def reads_text(self) -> bool:
        """Tells whether later steps look at the hidden states of the text."""
        return self.steps > 1 and self.config.recurrent_read_text

    def load_weights(self, checkpoint: Checkpoint, prefix: str) -> None:
        """Takes its tensors out of a checkpoint."""
        checkpoint.load_weights(self.encoder, deberta_v2.WEIGHTS, f"{prefix}scorer_")
        checkpoint.load_weights(self.classifier, CLASSIFIER_WEIGHTS, prefix)
        if self.cell is not None:
            checkpoint.load_weights(self.cell, CELL_WEIGHTS, f"{prefix}reasoning_cell.")

    def forward(self, rows: Tensor, sections: PackedBatch, text: Text | None = None) -> Scored:
        """Scores label sections, whose last hidden states are `rows` [S, C].

        text: the hidden states that later steps look at, where `reads_text` says so; ValueError without them.
        """
        if self.reads_text and text is None:
            raise ValueError("recurrent_read_text needs the hidden states of the text")
        found: Scored
        if self.steps == 1:
            found = self.classifier(*self.encoder.represented(rows, sections), sections)
            return found
        state = self.encoder(rows, sections)
        found = self.classifier(*represented(state, sections), sections)
        given = self.cell.normalize(rows)
        memory = self.cell.prepare(text) if self.reads_text else None
        active = torch.ones(sections.capacity.prompts, dtype=torch.bool, device=rows.device)
        for _ in range(1, self.steps):
            new_state = self.cell(state, given, sections, self.encoder, memory)
            new = self.classifier(*represented(new_state, sections), sections)
            if self.config.recurrent_halt_threshold:
                moved = self._moved(found[0], new[0], sections) >= self.config.recurrent_halt_threshold
                of_rows = active[self._owner(len(rows), sections)][:, None]
                of_labels = active[sections.label_text]
                state = torch.where(of_rows, new_state, state)
                found = (
                    torch.where(of_labels, new[0], found[0]),
                    torch.where(active[:, None], new[1], found[1]),
                    torch.where(of_labels[:, None], new[2], found[2]),
                )
                active = active & moved
                if active.device.type == "cpu" and not active.any():  # to ask a GPU would wait for it
                    break
            else:
                state, found = new_state, new
        return found

    def _moved(self, before: Tensor, after: Tensor, sections: PackedBatch) -> Tensor:
        """Returns how far a label's probability moved at most, for every text, [N]."""
        first, second = (self._probabilities(logits.float(), sections) for logits in (before, after))
        per_text = torch.stack((sections.cu_labels[:-1], sections.cu_labels[1:]), dim=1)
        return self.ops.segment_pool((second - first).abs()[:, None], per_text, "max")[:, 0]

    def _probabilities(self, logits: Tensor, sections: PackedBatch) -> Tensor:
        if self.config.problem_type != "single_label_classification":
            return logits.sigmoid()
        return self.ops.segment_softmax(logits, sections.label_sequences(sections.text_spans))

    @staticmethod
    def _owner(count: int, sections: PackedBatch) -> Tensor:
        places = torch.arange(count, dtype=torch.int32, device=sections.block.device)
        return torch.searchsorted(sections.cu_seqlens[1:].contiguous(), places, right=True)
