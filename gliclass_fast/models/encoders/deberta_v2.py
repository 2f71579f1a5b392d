"""DeBERTa v2, v3 and mDeBERTa (He et al., arXiv:2006.03654 and 2111.09543): they have post-LN layers and
disentangled attention.

The projected relative-position embeddings depend on weights alone. The reference projects them in every
forward; `fold_weights` does it once and keeps, per layer, one [H, D, buckets] table for each position term.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import UnsupportedConfigError, hf_activation
from gliclass_fast.models.backbone_config import MOST_DISTANCE, BackboneConfig, common_fields
from gliclass_fast.models.binding import bound_self_attention
from gliclass_fast.models.encoders import word_source
from gliclass_fast.models.layers import Embedding, Linear, Norm
from gliclass_fast.models.post_norm import PostNormEncoder, PostNormLayer
from gliclass_fast.ops import BoundSelfAttention, DistanceTables, Factors, Ops, Part, TableUpdate, Update

FAR = 1 << 40  # a distance like all larger ones
_LAYER = "encoder.layer.{i}"
_SELF = f"{_LAYER}.attention.self"
WEIGHTS = {
    "word_embeddings.weight": ("embeddings.word_embeddings.weight",),
    "position_embeddings.weight": ("embeddings.position_embeddings.weight",),
    "token_type_embeddings.weight": ("embeddings.token_type_embeddings.weight",),
    "widen.weight": ("embeddings.embed_proj.weight",),
    "rel_embeddings.weight": ("encoder.rel_embeddings.weight",),
    **affine(
        {
            "norm": "embeddings.LayerNorm",
            "rel_norm": "encoder.LayerNorm",
            "conv": "encoder.conv.conv",
            "conv_norm": "encoder.conv.LayerNorm",
            "layers.{i}.qkv": [f"{_SELF}.{part}_proj" for part in ("query", "key", "value")],
            "layers.{i}.pos_key": f"{_SELF}.pos_key_proj",
            "layers.{i}.pos_query": f"{_SELF}.pos_query_proj",
            "layers.{i}.out": f"{_LAYER}.attention.output.dense",
            "layers.{i}.attention_norm": f"{_LAYER}.attention.output.LayerNorm",
            "layers.{i}.up": f"{_LAYER}.intermediate.dense",
            "layers.{i}.down": f"{_LAYER}.output.dense",
            "layers.{i}.output_norm": f"{_LAYER}.output.LayerNorm",
        }
    ),
}
UNUSED = ("embeddings.position_embeddings.weight", "embeddings.position_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BackboneConfig):
    embedding_size: int
    type_vocab_size: int
    position_table: int  # rows of the absolute position table, 0 without one
    relative: bool
    position_buckets: int
    max_distance: int
    norm_distances: bool
    share_att_key: bool
    position_terms: tuple[str, ...]
    conv_kernel_size: int
    conv_groups: int
    conv_activation: str

    @property
    def overflows_float16(self) -> bool:
        return self.vocab_size > 200_000  # mDeBERTa

    @property
    def span(self) -> int:
        """Returns half the number of rows of the relative-position table."""
        return self.position_buckets if self.position_buckets > 0 else self.max_distance

    @property
    def scale(self) -> float:
        """Returns 1 / sqrt(terms * D); content-to-content is always one of the terms."""
        return 1 / math.sqrt((1 + len(self.position_terms)) * self.head_width)


def config_from(hf: Any) -> Config:
    terms = hf.pos_att_type or []
    terms = tuple(t.strip() for t in (terms.split("|") if isinstance(terms, str) else terms))
    terms = tuple(term for term in terms if term not in ("", "none"))
    if len(set(terms)) < len(terms):
        raise UnsupportedConfigError(f"encoder_config.pos_att_type={list(terms)} names a term twice")
    if unknown := set(terms) - {"c2p", "p2c"}:
        raise UnsupportedConfigError(f"encoder_config.pos_att_type={sorted(unknown)}; supported: c2p, p2c")
    if getattr(hf, "attention_head_size", None) not in (None, hf.hidden_size // hf.num_attention_heads):
        raise UnsupportedConfigError("encoder_config.attention_head_size; supported: hidden_size / heads")
    kernel, groups = getattr(hf, "conv_kernel_size", 0) or 0, getattr(hf, "conv_groups", 1)
    if kernel and (kernel % 2 == 0 or hf.hidden_size % groups):
        raise UnsupportedConfigError(
            f"encoder_config.conv_kernel_size={kernel} with conv_groups={groups} is not supported; "
            f"supported: odd sizes, and groups that divide hidden_size={hf.hidden_size}"
        )
    biased = bool(getattr(hf, "position_biased_input", True))
    max_distance = getattr(hf, "max_relative_positions", -1)
    return Config(
        **common_fields(hf),
        norm_eps=hf.layer_norm_eps,
        embedding_size=getattr(hf, "embedding_size", None) or hf.hidden_size,
        type_vocab_size=hf.type_vocab_size,
        position_table=hf.max_position_embeddings if biased else 0,
        relative=bool(getattr(hf, "relative_attention", False)),
        position_buckets=getattr(hf, "position_buckets", -1),
        max_distance=max_distance if max_distance >= 1 else hf.max_position_embeddings,
        norm_distances="layer_norm" in str(getattr(hf, "norm_rel_ebd", "none")).lower(),
        share_att_key=bool(getattr(hf, "share_att_key", False)),
        position_terms=terms,
        conv_kernel_size=kernel,
        conv_groups=groups,
        conv_activation=hf_activation("encoder_config.conv_act", getattr(hf, "conv_act", "tanh")),
        max_positions=hf.max_position_embeddings if biased else None,
    )


def bucket_of(config: Config) -> Tensor:
    """Returns the row of the relative-position table for every distance -reach .. reach, int64 on the host.

    Distances beyond `reach` use the first or the last row. Raises UnsupportedConfigError if distances above
    MOST_DISTANCE would still need rows of their own.
    """
    distance = torch.arange(MOST_DISTANCE + 2)
    rows = {sign: _row_of(config, sign * distance) for sign in (1, -1)}
    ends = {sign: _row_of(config, torch.tensor(sign * FAR)) for sign in (1, -1)}
    reach = 1 + int(((rows[1] != ends[1]) | (rows[-1] != ends[-1])).nonzero().max())
    if config.max_positions is not None:
        reach = min(reach, config.max_positions)
    if reach > MOST_DISTANCE:
        raise UnsupportedConfigError(
            f"encoder_config.position_buckets={config.position_buckets} with distances up to "
            f"{config.max_distance}: a distance of {MOST_DISTANCE} is not in the last bucket yet"
        )
    return torch.cat((rows[-1][1 : reach + 1].flip(0), rows[1][: reach + 1]))


def _row_of(config: Config, distance: Tensor) -> Tensor:
    """Returns the row of the relative-position table for distances, int64.

    Rows are linear up to half the buckets, then logarithmic: sign(d) * (ceil(ln(|d| / m) / ln((P - 1) / m) *
    (m - 1)) + m) with m = buckets / 2 and P = the largest distance. It computes in float32 as the reference
    does, as |d| = P - 1 sits on a ceil boundary.
    """
    middle = config.position_buckets // 2
    if config.position_buckets > 0:
        away = distance.abs().clamp_min(middle).float()
        largest = torch.tensor((config.max_distance - 1) / middle, dtype=torch.float32)
        growth = torch.log(away / middle) / torch.log(largest)
        bucket = torch.ceil(growth * (middle - 1)) + middle
        distance = torch.where(distance.abs() <= middle, distance, (bucket * distance.sign()).long())
    return (distance + config.span).clamp_(0, 2 * config.span - 1)


class Layer(PostNormLayer):
    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__(config, ops)
        self.config, self.scale, width = config, config.scale, config.hidden_size
        separate = config.relative and not config.share_att_key
        needs = {term: separate and term in config.position_terms for term in ("c2p", "p2c")}
        self.pos_key = Linear(width, width, ops) if needs["c2p"] else None
        self.pos_query = Linear(width, width, ops) if needs["p2c"] else None
        self.tables: DistanceTables | None = None
        self.adapted_tables: Any = None  # the store of what adapters change of the tables

    def fold_tables(self, rel_embeddings: Tensor, bucket_of: Tensor) -> None:
        """Makes the tables from the normed relative-position embeddings, float32 [2 * span, C]."""
        self.rel_embeddings = rel_embeddings
        query, key, _ = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        if self.pos_key is not None:
            key = (self.pos_key.weight, self.pos_key.bias)
        if self.pos_query is not None:
            query = (self.pos_query.weight, self.pos_query.bias)
        terms = self.config.position_terms
        key_table = self._project(rel_embeddings, *key) if "c2p" in terms else None
        query_table = self._project(rel_embeddings, *query) if "p2c" in terms else None
        if terms:
            self.tables = self.ops.pack_distances(DistanceTables(key_table, query_table, bucket_of))
        self.pos_key = self.pos_query = None

    @property
    def folded_projections(self) -> dict[str, str]:
        """Returns what the tables were made of, by the names of the terms: c2p by keys, p2c by queries."""
        projections = {} if self.config.share_att_key else {"c2p": "pos_key", "p2c": "pos_query"}
        return {term: projections.get(term, "qkv") for term in self.config.position_terms}

    def adapt(self, slot: int, updates: Mapping[str, Update]) -> bool:
        """Sets what an adapter changes of the tables, by the names of the layer's projections.

        Tells whether a store was made, or moved to other memory.
        """
        if self.tables is None:
            return False
        width, starts = self.config.hidden_size, {"p2c": 0, "c2p": 0}
        if self.config.share_att_key:
            starts["c2p"] = width
        factors: dict[str, Factors] = {}
        for term, name in self.folded_projections.items():
            for part in updates.get(name, ()):
                if part.start == starts[term]:
                    factors[term] = self._factors(part)
        update = TableUpdate(factors.get("c2p"), factors.get("p2c")) if factors else None
        made = update is not None and self.adapted_tables is None
        if made:
            self.adapted_tables = self.ops.table_store(self.tables)
        return made | (self.adapted_tables is not None and self.adapted_tables.put(slot, update))

    def _factors(self, part: Part) -> Factors:
        rel = self.rel_embeddings
        return Factors(part.a.to(rel) @ rel.T, part.b.to(rel))

    def _project(self, rel_embeddings: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        table = F.linear(rel_embeddings, weight.float(), bias.float()).to(weight.dtype)
        return table.view(len(rel_embeddings), self.num_heads, -1).permute(1, 2, 0).contiguous()

    def bind_attention(self) -> BoundSelfAttention | None:
        return bound_self_attention(self.qkv, self.num_heads, self.head_width, self.scale, tables=self.tables)

    def attend(self, qkv: Tensor, batch: PackedBatch) -> Tensor:
        if self.tables is None:
            return super().attend(qkv, batch)
        sequences, scale = batch.sequences, self.scale
        rows, store = batch.adapter_rows, self.adapted_tables
        if rows is None or store is None:
            return self.ops.disentangled_attention(qkv, sequences, scale, self.tables)
        return self.ops.adapted_attention(qkv, sequences, scale, self.tables, rows, store)


class Encoder(PostNormEncoder):
    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        width, narrow, eps = config.hidden_size, config.embedding_size, config.norm_eps
        rows, types = config.position_table, config.type_vocab_size
        self.word_embeddings = Embedding(config.vocab_size, narrow)
        self.position_embeddings = Embedding(rows, narrow) if rows else None
        self.token_type_embeddings = Embedding(types, narrow) if types else None
        self.widen = Linear(narrow, width, ops, bias=False) if narrow != width else None
        self.norm = Norm(width, ops, eps)
        self.rel_embeddings = Embedding(2 * config.span, width) if config.relative else None
        self.rel_norm = Norm(width, ops, eps) if config.norm_distances else None
        self.conv = self.conv_norm = None
        if config.conv_kernel_size:
            padding = (config.conv_kernel_size - 1) // 2
            self.conv = nn.Conv1d(
                width, width, config.conv_kernel_size, padding=padding, groups=config.conv_groups
            )
            self.conv_norm = Norm(width, ops, eps)
        self.layers = nn.ModuleList(Layer(config, ops) for _ in range(config.num_hidden_layers))

    def fold_weights(self) -> None:
        """Projects position tables, widens narrow embeddings, adds the type-0 embedding to the positions."""
        if self.widen is not None:
            for table in (self.word_embeddings, self.position_embeddings, self.token_type_embeddings):
                if table is not None:
                    table.weight.data = F.linear(table.weight.data, self.widen.weight)
            self.widen = None
        if self.token_type_embeddings is not None and self.position_embeddings is not None:
            folded = self.position_embeddings.weight + self.token_type_embeddings.weight[0]
            self.position_embeddings.weight = nn.Parameter(folded, requires_grad=False)
            self.token_type_embeddings = None
        if self.rel_embeddings is not None:
            rel, norm = self.rel_embeddings.weight.float(), self.rel_norm
            if norm is not None:
                assert norm.bias is not None
                rel = F.layer_norm(rel, rel.shape[1:], norm.weight.float(), norm.bias.float(), norm.eps)
            buckets = bucket_of(self.config).to(rel.device)
            for layer in self.layers:
                assert isinstance(layer, Layer)
                layer.fold_tables(rel, buckets)
            self.rel_embeddings = None

    def bind(self) -> None:
        if self.conv is None:  # which stands between the first two layers
            super().bind()

    def embed(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        sources = [word_source(self.word_embeddings.weight, batch, inputs_embeds)]
        if self.position_embeddings is not None:
            sources.append((self.position_embeddings.weight, batch.positions))
        if self.token_type_embeddings is not None:  # every token has type 0
            sources.append((self.token_type_embeddings.weight, torch.zeros_like(batch.positions)))
        if segment_table is not None:
            sources.append((segment_table, batch.segments))
        return self.norm.embed(sources)

    def hidden_states(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Iterator[Tensor]:
        x = embedded = self.embed(batch, segment_table, inputs_embeds)
        yield x
        for number, layer in enumerate(self.layers):
            x = layer(x, batch)
            if number == 0 and self.conv is not None:
                x = self._convolve(embedded, x, batch)
            yield x

    def _convolve(self, embedded: Tensor, x: Tensor, batch: PackedBatch) -> Tensor:
        """Returns LayerNorm(x + act(conv(embedded))), where each sequence is convolved on its own."""
        assert self.conv is not None and self.conv_norm is not None
        mixed = self.ops.activation(self._conv_rows(embedded, batch.positions), self.config.conv_activation)
        return self.conv_norm.add(mixed, x)

    def _conv_rows(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Convolves by one product with the rows around every row, [T, C] -> [T, C].

        A neighbour belongs to the same sequence where its position is the row's own plus the shift.
        """
        assert self.conv is not None and self.conv.bias is not None
        size, groups = self.config.conv_kernel_size, self.config.conv_groups
        around = []
        for shift in range(-((size - 1) // 2), size // 2 + 1):
            same = positions.roll(-shift) == positions + shift
            around.append(rows.roll(-shift, 0) * same[:, None])
        windows = torch.stack(around, dim=-1).view(len(rows), groups, -1)
        weight = self.conv.weight.view(groups, -1, windows.shape[-1])
        return torch.einsum("tgi,goi->tgo", windows, weight).flatten(1) + self.conv.bias
