"""Batch invariance: is a float32 score on a CPU bitwise the same alone and in any batch, and if not, why?

python -m tools.invariance [--record]

models: logits of every kind of tiny model and of the demo checkpoint, in batches and alone.
operations: each that runs on a CPU at widths of stock models, on all rows or sequences and on each alone.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.kernels.segment_pool import REDUCTIONS
from gliclass_fast.ops import DistanceTables, Sequences, choose_ops
from gliclass_fast.runtime.packing import work_list
from tests.tiny import ENCODERS, MORE_ENCODERS, fast_pipeline, reference_model
from tools.fuzzing.kinds import CHUNKING, KINDS, ROUNDED, pipeline
from tools.reliability import record
from tools.stress import questions

HIDDEN, INNER, HEADS, WIDTH, REACH = 768, 3072, 12, 64, 255
LENGTHS = [1, 7, 16, 33, 64, 130, 257]


def _logits(ours: Any, texts: Sequence[str], labels: Sequence[str]) -> list[np.ndarray]:
    ask = {"threshold": 0.0, "classification_type": "multi-label"}
    call = ours.prepare(texts, labels, **ask)
    return [each.logits for each in ours.engine.score(call.requests)]


def _tiny(backbone: str) -> Any:
    return fast_pipeline(reference_model(backbone))


def of_models() -> Iterator[dict[str, Any]]:
    """Yields a row per model: the largest difference of a logit, over the largest logit or 1."""
    made: dict[str, Callable[[], Any]] = {name: partial(_tiny, name) for name in (*ENCODERS, *MORE_ENCODERS)}
    made |= {kind: partial(pipeline, kind) for kind in KINDS if kind not in (*ROUNDED, CHUNKING)}
    made["demo checkpoint"] = lambda: ZeroShotClassificationPipeline(
        demo.PATH, device="cpu", progress_bar=False
    )
    for name, make in made.items():
        ours, worst, same, texts_seen = make(), 0.0, 0, 0
        for asked in _batches():
            together = _logits(ours, *asked)
            for text, found in zip(asked[0], together, strict=True):
                (alone,) = _logits(ours, [text], asked[1])
                worst = max(worst, float(np.abs(found - alone).max() / max(1, np.abs(alone).max())))
                same, texts_seen = same + bool((found == alone).all()), texts_seen + 1
        yield {"model": name, "texts": texts_seen, "bitwise the same": same, "largest difference": worst}


def _batches() -> Iterator[tuple[list[str], list[str]]]:
    """Yields sixteen texts at a time with labels, of very different lengths."""
    texts = [text for own, _ in questions() for text in own]
    for start, (_, labels) in zip(range(0, 48, 16), questions(), strict=False):
        yield texts[start : start + 16], labels


def of_operations() -> Iterator[dict[str, Any]]:
    """Yields a row per operation: the largest difference of a value, over the largest value or 1."""
    torch.manual_seed(0)
    ops = choose_ops("cpu")
    for name, run in {**_row_operations(ops), **_sequence_operations(ops)}.items():
        worst = max(_difference(together, alone) for together, alone in run())
        yield {"operation": name, "by": ops.chosen[name.split(",")[0]], "largest difference": worst}


def _difference(together: Tensor, alone: Tensor) -> float:
    return float((together - alone).abs().max() / max(1.0, float(alone.abs().max())))


Pairs = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def _row_operations(ops: Any) -> dict[str, Pairs]:
    x, residual = torch.randn(sum(LENGTHS), HIDDEN), torch.randn(sum(LENGTHS), HIDDEN)
    weight, bias = torch.randn(INNER, HIDDEN) * HIDDEN**-0.5, torch.randn(INNER)
    square, packed = ops.pack_linear(weight[:HIDDEN].contiguous()), ops.pack_linear(weight)
    scale, offset = torch.rand(HIDDEN), torch.randn(HIDDEN)
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "linear": lambda x, _: ops.linear(x, packed, bias, "none"),
        "linear, gelu": lambda x, _: ops.linear(x, packed, bias, "gelu"),
        "linear_add": lambda x, r: ops.linear_add(x, square, bias[:HIDDEN], r.clone()),
        "norm_linear": lambda x, _: ops.norm_linear(x, packed, bias, weight.sum(1), 1e-7, "gelu"),
        "norm_linear, gated": lambda x, _: ops.norm_linear(
            x, packed, bias, weight.sum(1), 1e-7, "gelu", True
        ),
        "activation": lambda x, _: ops.activation(x, "gelu"),
        "layer_norm": lambda x, _: ops.layer_norm(x, scale, offset, 1e-7, False),
        "layer_norm, RMS": lambda x, _: ops.layer_norm(x, scale, None, 1e-7, True),
    }

    def pairs(function: Callable[[Tensor, Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        whole = function(x, residual)
        for part, own, other in zip(
            *(torch.split(each, LENGTHS) for each in (whole, x, residual)), strict=True
        ):
            yield part, function(own, other)

    return {name: partial(pairs, function) for name, function in functions.items()}


def _sequences(lengths: Sequence[int]) -> Sequences:
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    seen = torch.stack((bounds[:-1], bounds[1:]), dim=1)
    tiles = torch.from_numpy(work_list(bounds.numpy(), seen.numpy(), 0))
    return Sequences(bounds, None, tiles, max(lengths))


def _sequence_operations(ops: Any) -> dict[str, Pairs]:
    qkv = torch.randn(sum(LENGTHS), 3, HEADS, WIDTH)
    rows, scores = torch.randn(sum(LENGTHS), HIDDEN), torch.randn(sum(LENGTHS))
    bucket_of = torch.arange(2 * REACH + 1)
    tables = ops.pack_distances(
        DistanceTables(
            torch.randn(HEADS, WIDTH, 2 * REACH + 1), torch.randn(HEADS, WIDTH, 2 * REACH + 1), bucket_of
        )
    )
    text = torch.randn(len(LENGTHS), HIDDEN)
    owner = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS)).int()

    def spans(given: Sequences) -> Tensor:
        return torch.stack((given.bounds[:-1], given.bounds[1:]), dim=1)

    def pooled(reduce: str, given: Sequences, take: Callable[[Tensor], Tensor], _: slice) -> Tensor:
        pool: Tensor = ops.segment_pool(take(rows), spans(given), reduce)
        return pool

    def first_of(given: Sequences) -> Sequences:
        """Each sequence's first row alone asks, over the keys of the whole sequence."""
        bounds, keys = torch.arange(len(given.bounds)).int(), spans(given)
        tiles = torch.from_numpy(work_list(bounds.numpy(), keys.numpy(), 0))
        return Sequences(bounds, keys, tiles, 1)

    Take = Callable[[Tensor], Tensor]
    functions: dict[str, Callable[[Sequences, Take, slice], Tensor]] = {
        "attention": lambda s, take, _: ops.attention(take(qkv), s, WIDTH**-0.5),
        "disentangled_attention": lambda s, take, _: ops.disentangled_attention(take(qkv), s, 0.1, tables),
        "causal_attention": lambda s, take, _: ops.causal_attention(*take(qkv).unbind(1), s.causal()),
        "cross_attention": lambda s, take, n: ops.cross_attention(
            text[n].view(-1, HEADS, WIDTH), *take(qkv)[:, 1:].unbind(1), first_of(s)
        ),
        "attention_pool": lambda s, take, n: ops.attention_pool(text[n], take(rows), first_of(s), 0.1),
        "segment_softmax": lambda s, take, _: ops.segment_softmax(take(scores), s),
        "pair_dot": lambda s, take, n: ops.pair_dot(text[n], take(rows), take(owner) - n.start),
        "pair_add": lambda s, take, n: ops.pair_add(text[n], take(rows), take(owner) - n.start, "relu"),
        **{f"segment_pool, {reduce}": partial(pooled, reduce) for reduce in REDUCTIONS},
    }

    def pairs(function: Callable[[Sequences, Take, slice], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        whole = function(_sequences(LENGTHS), lambda each: each, slice(0, len(LENGTHS)))
        by_row = len(whole) == sum(LENGTHS)
        parts = torch.split(whole, LENGTHS if by_row else 1)
        start = 0
        for number, length in enumerate(LENGTHS):
            place = slice(start, start + length)
            own = slice(number, number + 1)
            yield parts[number], function(_sequences([length]), itemgetter(place), own)
            start += length

    return {name: partial(pairs, function) for name, function in functions.items()}


def main() -> None:
    logging.getLogger("gliclass_fast").setLevel(logging.ERROR)  # some texts are cut
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    facts: dict[str, list[dict[str, Any]]] = {"models": [], "operations": []}
    for part, rows in (("operations", of_operations()), ("models", of_models())):
        for row in rows:
            facts[part].append(row)
            print(json.dumps(row), flush=True)
    if options.record:
        record("batch invariance", facts)


if __name__ == "__main__":
    main()
