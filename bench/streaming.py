"""Streams beside the reference: one call appends a chunk to every session and scores labels in each.

The shape is that of Qwen3-0.6B with 6 of its 28 layers and random weights. A chunk has 16 tokens and the
label section 82. Both engines hold the same sessions, and their calls take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from transformers.models.auto import CONFIG_MAPPING

from gliclass_fast import GLiClassModel, StreamingZeroShotClassificationPipeline, streaming
from gliclass_fast.bench import cases
from gliclass_fast.bench.timing import alternate
from gliclass_fast.ops import PAGE_ROWS

SHAPE = "Qwen3-0.6B, 6 of 28 layers"
BACKBONE = cases.size_of(6, 1024, 16, 3072) | {
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "vocab_size": 30528,
    "pad_token_id": 0,
}  # fmt: skip
CHUNK, LABELS = 16, 40  # tokens; a label takes two
SESSIONS = ((1, 512), (1, 2048), (4, 512), (4, 2048))  # how many, and the tokens that each holds at first
GROWTH = (512, 2048)  # tokens that a session holds, for how a call's time grows with them


def reference() -> Any:
    """Builds the reference's model."""
    import gliclass

    torch.manual_seed(0)
    names = ("class_token_index", "text_token_index", "example_token_index")
    ids = cases.demo_tokenizer().convert_tokens_to_ids(list(cases.MARKERS))
    config = gliclass.GLiClassModelConfig(
        encoder_config=CONFIG_MAPPING["qwen3"](**BACKBONE), encoder_model="stock",
        architecture_type="decoder-kv", sep_token_index=ids[1], **dict(zip(names, ids, strict=True)),
    )  # fmt: skip
    model: Any = gliclass.GLiClassModel(config)
    return model.eval()


def measure(repeats: int, step: Callable[[str], None] = print) -> Iterator[dict[str, Any]]:
    """Yields a row per number of sessions: milliseconds per call of both, the largest error of a score."""
    from gliclass import streaming as theirs

    model, tokenizer = reference(), cases.demo_tokenizer()
    pipelines: dict[str, Any] = {
        "gliclass": theirs.StreamingZeroShotClassificationPipeline(model, tokenizer, device="cpu")
    }
    for name, quantization in (("gliclass-fast", None), ("gliclass-fast, int8", "int8")):
        ours = GLiClassModel.from_gliclass(model, device="cpu", quantization=quantization)
        pipelines[name] = StreamingZeroShotClassificationPipeline(ours, tokenizer, device="cpu")
    for count, held in SESSIONS:
        step(f"{count} of {held} tokens")
        calls = {
            name: _calls(pipeline, theirs if name == "gliclass" else streaming, count, held)
            for name, pipeline in pipelines.items()
        }
        scores = [
            [each["score"] for answer in call() for each in answer["predictions"]] for call in calls.values()
        ]
        times = alternate(calls, repeats, warmup=1)
        sessions = pipelines["gliclass-fast"].sessions
        pool, tokens = sessions.pool, sum(each.cached_length for each in sessions.values())
        yield {
            "sessions": count,
            "held_tokens": held,
            "chunk_tokens": CHUNK,
            "label_section_tokens": 2 * LABELS + 2,
            "error": max(abs(mine - other) for mine, other in zip(*scores[:2], strict=True)),
            "times": {name: asdict(each) for name, each in times.items()},
            "bytes_per_token": pool.bytes_per_token,
            "page_bytes_per_held_token": round(pool.used_bytes / tokens, 1),
            "pool_bytes_per_held_token": round(pool.pages * PAGE_ROWS * pool.bytes_per_token / tokens, 1),
        }


def growth(repeats: int) -> list[dict[str, Any]]:
    """Returns a row per number of tokens held: milliseconds of a call of ours, and of its attention alone."""
    ours = GLiClassModel.from_gliclass(reference(), device="cpu")
    functions: dict[str, Callable[[], Any]] = {}
    for held in GROWTH:
        pipeline = StreamingZeroShotClassificationPipeline(ours, cases.demo_tokenizer(), device="cpu")
        functions[f"call {held}"] = call = _calls(pipeline, streaming, 1, held)
        functions[f"attention {held}"] = _attention_of(ours, call)
    times = alternate(functions, repeats)
    return [
        {"held_tokens": held, **{part: asdict(times[f"{part} {held}"]) for part in ("call", "attention")}}
        for held in GROWTH
    ]


def _attention_of(model: GLiClassModel, call: Callable[[], Any]) -> Callable[[], None]:
    """Makes a call, and returns what runs the attention of its layers once more."""
    network: Any = model.loaded.network
    layers, seen = network.decoder.layers, list[tuple[Any, ...]]()
    ops = layers[0].ops

    def attend(*given: Any) -> Any:
        seen.append(given)
        return ops.causal_attention(*given)

    for layer in layers:
        layer.ops = replace(ops, causal_attention=attend)
    call()
    for layer in layers:
        layer.ops = ops

    def again() -> None:
        with torch.inference_mode():
            for given in seen:
                ops.causal_attention(*given)

    return again


def _calls(pipeline: Any, package: Any, count: int, held: int) -> Callable[[], Any]:
    """Fills sessions, and returns a call that appends a chunk to each."""
    words = cases.words(cases.demo_tokenizer())
    labels, names = words[200 : 200 + LABELS], [f"session {number}" for number in range(count)]
    pipeline.clear_sessions()
    for start in range(0, held, 512):  # the same text, in pieces
        text = " ".join(words[(start + place) % len(words)] for place in range(512))
        pipeline([text] * count, labels, session_ids=names, strategies=package.NeverStrategy())
    for name in names:
        pipeline.set_session_strategy(name, package.EveryChunkStrategy())
    chunk = " ".join(words[:CHUNK])
    return lambda: pipeline([chunk] * count, labels, session_ids=names, threshold=0.0)
