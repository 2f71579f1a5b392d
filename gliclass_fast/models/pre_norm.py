"""Backbones of pre-RMSNorm layers: T5 and Llama share this part."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.models.backbone_config import BackboneConfig
from gliclass_fast.models.binding import bound_layers
from gliclass_fast.models.encoders import Encoder
from gliclass_fast.models.layers import Embedding, Norm
from gliclass_fast.ops import AdapterRows, Ops


class PreNormLayer(nn.Module):
    """Says what the encoder asks of a layer."""

    def after_attention(self, x: Tensor, attended: Tensor, rows: AdapterRows | None) -> Tensor:
        """Runs the part that treats every row alone; it may overwrite x."""
        raise NotImplementedError


class PreNormEncoder(Encoder):
    """Runs word embeddings, layers and a last norm; subclasses supply `layers` and `attention`.

    Who does more between the layers, in `hidden_states`, leaves them unbound: `bind` has them run at once.
    """

    def __init__(self, config: BackboneConfig, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.final_norm = Norm(config.hidden_size, ops, config.norm_eps, rms=True)

    def bind(self) -> None:
        self.bound_layers = bound_layers(self.layers, self.ops)

    def embed(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        x: Tensor = self.word_embeddings(batch.token_ids) if inputs_embeds is None else inputs_embeds
        return x if segment_table is None else x + segment_table[batch.segments]

    def attention(self, number: int, x: Tensor, batch: PackedBatch) -> Tensor:
        """Runs the part of a layer that looks at other tokens."""
        raise NotImplementedError

    def _after_attention(self, number: int, x: Tensor, attended: Tensor, rows: AdapterRows | None) -> Tensor:
        layer = self.layers[number]
        assert isinstance(layer, PreNormLayer)
        finished = layer.after_attention(x, attended, rows)
        return finished if number < len(self.layers) - 1 else self.final_norm(finished)

    def hidden_states(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Iterator[Tensor]:
        x = self.embed(batch, segment_table, inputs_embeds)
        yield x
        for number in range(len(self.layers)):
            x = self._after_attention(number, x, self.attention(number, x, batch), batch.adapter_rows)
            yield x

    def as_state(self, number: int, x: Tensor, normed: Tensor) -> Tensor:
        return x if number < len(self.layers) else self.final_norm(x)

    def last_attention(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        last = len(self.layers) - 1
        x = self.state(last, batch, segment_table, inputs_embeds)
        return x, self.attention(last, x, batch)

    def last_feed_forward(self, x: Tensor, attended: Tensor, rows: AdapterRows | None = None) -> Tensor:
        return self._after_attention(len(self.layers) - 1, x, attended, rows)
