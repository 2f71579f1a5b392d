"""The drop-in pipelines take the reference's arguments and models, and give its results."""

from __future__ import annotations

import copy
import logging
import sys
from pathlib import Path
from typing import Any

import gliclass
import numpy as np
import pytest
import torch

import gliclass_fast
from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline, demo
from gliclass_fast.engine.engine import CHUNK
from tests.accuracy import ALONE_TOLERANCE, assert_same_logits, assert_same_results
from tests.sentences import LABELS, TEXTS
from tests.streaming.scripts import streaming
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model, reference_pipeline

TREE = {"sentiment": ["positive", "negative"], "topic": {"sport": ["football", "chess"], "art": "music"}}
SHOTS = [{"text": "so good", "labels": ["positive"]}, {"text": "bad", "true_labels": ["negative", "chess"]}]
RETRIEVED = [{"text": "a film", "true_labels": ["positive"], "all_labels": ["positive", "negative"]}]


@pytest.fixture(scope="module")
def model() -> Any:
    return reference_model(scorer_type="mlp", class_token_pooling="average", use_segment_embeddings=True)


CALLS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "one text": (TEXTS[0], LABELS[0], {}),
    "one label list": (TEXTS, LABELS[2], {}),
    "labels per text": (TEXTS, LABELS, {"threshold": 0.2}),
    "nested labels": (TEXTS, TREE, {}),
    "nested result": (TEXTS, TREE, {"return_hierarchical": True}),
    "flat labels, nested result": (TEXTS, LABELS[2], {"return_hierarchical": True}),
    "nested labels per text": (TEXTS[:2], [TREE, {"a": ["b"]}], {"return_hierarchical": True}),
    "single-label": (TEXTS, LABELS[2], {"classification_type": "single-label"}),
    "single-label, nested": (TEXTS, TREE, {"classification_type": "single", "return_hierarchical": True}),
    "types and thresholds per text": (
        TEXTS[:3],
        LABELS[2],
        {"classification_type": ["single", "multi_label", "Multi-Label"], "threshold": [0.1, 0.4, 0.6]},
    ),
    "shared prompt": (TEXTS, LABELS[2], {"prompt": "Classify: "}),
    "no prompts": (TEXTS, LABELS[2], {"prompt": [], "examples": [], "rac_examples": []}),
    "prompt per text": (TEXTS, LABELS[2], {"prompt": [f"Task {n}: " for n in range(len(TEXTS))]}),
    "shared examples": (TEXTS, LABELS[2], {"examples": SHOTS}),
    "examples per text": (TEXTS[:3], LABELS[2], {"examples": [SHOTS, None, SHOTS[:1]]}),
    "retrieved examples": (TEXTS[0], LABELS[2], {"rac_examples": RETRIEVED}),
    "retrieved examples per text": (TEXTS[:2], LABELS[2], {"rac_examples": [RETRIEVED, []]}),
    "no texts": ([], LABELS[2], {}),
    "batch size": (TEXTS, LABELS[2], {"batch_size": 1}),
}


@pytest.mark.parametrize("prompt_first", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_calls_give_the_reference_results(model: Any, name: str, prompt_first: bool) -> None:
    texts, labels, arguments = CALLS[name]
    model.config.prompt_first = prompt_first
    arguments = {**arguments, "batch_size": 1}  # the reference's answer is the one at batch size 1
    expected = reference_pipeline(model)(texts, labels, **arguments)
    assert_same_results(fast_pipeline(model)(texts, labels, **arguments), expected)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["multi-label", "single-label"])
def test_chunking_pipeline(model: Any, kind: str) -> None:
    texts = [TEXTS[0], TEXTS[-1] * 3, "", TEXTS[2]]
    labels = [f"label {number}" for number in range(11)]
    settings = {"classification_type": kind, "device": "cpu", "progress_bar": False}
    sizes = {"text_chunk_size": 90, "text_chunk_overlap": 20, "labels_chunk_size": 4}
    model.config.prompt_first = True
    tokenizer = byte_tokenizer()
    theirs = gliclass.ZeroShotClassificationWithChunkingPipeline(model, tokenizer, **settings, **sizes)
    ours = gliclass_fast.ZeroShotClassificationWithChunkingPipeline(model, tokenizer, **settings, **sizes)
    for arguments in (
        {},
        {"threshold": 0.05},
        {"return_hierarchical": True},
        {"prompt": "Task: "},
        {"examples": SHOTS},
    ):
        arguments = {**arguments, "batch_size": 1}
        assert_same_results(ours(texts, labels, **arguments), theirs(texts, labels, **arguments))
    assert ours.chunk_text(texts[1]) == theirs.chunk_text(texts[1])
    assert_same_results(ours(texts, TREE, text_chunk_size=50), theirs(texts, TREE, text_chunk_size=50))
    assert ours.text_chunk_size == 50


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.5, 0.6])
def test_duplicate_labels(model: Any, threshold: float) -> None:
    labels = ["good", "bad", "good", "so", "so"]
    model.config.prompt_first = True
    settings = {"device": "cpu", "progress_bar": False, "text_chunk_size": 60, "text_chunk_overlap": 10}
    pairs = [
        (reference_pipeline(model), fast_pipeline(model)),
        (
            gliclass.ZeroShotClassificationWithChunkingPipeline(model, byte_tokenizer(), **settings),
            gliclass_fast.ZeroShotClassificationWithChunkingPipeline(model, byte_tokenizer(), **settings),
        ),
    ]
    for theirs, ours in pairs:
        for nested in (True, False):
            arguments = {"threshold": threshold, "return_hierarchical": nested, "batch_size": 1}
            assert_same_results(ours(TEXTS, labels, **arguments), theirs(TEXTS, labels, **arguments))


def test_chunk_sizes_that_would_never_end_are_refused(model: Any) -> None:
    ours = gliclass_fast.ZeroShotClassificationWithChunkingPipeline(model, byte_tokenizer(), device="cpu")
    with pytest.raises(ValueError, match="cannot overlap"):
        ours("x" * 100, ["a"], text_chunk_size=10, text_chunk_overlap=10)
    with pytest.raises(ValueError, match="labels_chunk_size"):
        ours("x", ["a"], labels_chunk_size=0)


def test_a_text_alone_scores_as_in_any_batch_and_order(model: Any) -> None:
    pipeline = fast_pipeline(model)
    labels = LABELS[2]
    alone = [pipeline(text, labels, threshold=0.0)[0] for text in TEXTS]
    for order in (range(len(TEXTS)), reversed(range(len(TEXTS)))):
        indices = list(order)
        together = pipeline([TEXTS[index] for index in indices], labels, threshold=0.0)
        assert_same_results(together, [alone[index] for index in indices], ALONE_TOLERANCE)


@pytest.mark.parametrize("labels_per_pass", [2, 1, "auto", 100])
def test_passes_give_the_logits_of_their_own_prompts(model: Any, labels_per_pass: Any) -> None:
    pipeline = fast_pipeline(model, max_length=60)
    labels = [f"some label {number}" for number in range(5 if labels_per_pass != 100 else 2)]
    found, infos = pipeline(
        TEXTS[0], labels, threshold=0.0, labels_per_pass=labels_per_pass, return_info=True
    )
    size = {2: 2, 1: 1, "auto": 2, 100: 2}[labels_per_pass]
    groups = [labels[start : start + size] for start in range(0, len(labels), size)]
    expected = [each for group in groups for each in pipeline(TEXTS[0], group, threshold=0.0)[0]]
    assert_same_results(found[0], expected)
    assert infos[0].passes == len(groups)


def test_labels_that_do_not_fit_say_what_to_do(model: Any) -> None:
    pipeline = fast_pipeline(model, max_length=60)
    with pytest.raises(ValueError, match=r"window of 60 tokens.*need 68.*labels_per_pass") as raised:
        pipeline("text", [f"label {number} is long" for number in range(4)])
    assert isinstance(raised.value, gliclass_fast.ArgumentError)


def test_cut_texts_are_logged_once_and_reported(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = fast_pipeline(model, max_length=64)
    with caplog.at_level(logging.WARNING, logger="gliclass_fast"):
        _, infos = pipeline(TEXTS, ["a", "b"], return_info=True)
    assert len(caplog.records) == 1 and "window of 64" in caplog.text
    overhead = 2 + 4 + 1  # specials, two labels, <<SEP>>
    for text, info in zip(TEXTS, infos, strict=True):
        wanted = len(text.encode()) + overhead
        assert (info.tokens, info.tokens_cut, info.passes) == (min(wanted, 64), max(wanted - 64, 0), 1)


def test_absolute_positions_bound_the_window() -> None:
    model = reference_model("roberta", {"max_position_embeddings": 34})
    _, infos = fast_pipeline(model)("x" * 100, ["a"], return_info=True)
    assert infos[0].tokens == 33  # positions 1 .. 33, after the padding index 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_a_pipeline_takes(model: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    model.config.prompt_first = True
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    expected = fast_pipeline(model)(TEXTS, LABELS[2], threshold=0.0)
    for given in (
        model,
        str(tmp_path),
        tmp_path,
        GLiClassModel.from_pretrained(tmp_path, dtype=dtype).float(),
    ):
        for tokenizer in (byte_tokenizer(), tmp_path):
            pipeline = ZeroShotClassificationPipeline(given, tokenizer, device="cuda:0", progress_bar=False)
            assert_same_results(pipeline(TEXTS, LABELS[2], threshold=0.0), expected)
    own = ZeroShotClassificationPipeline(tmp_path, progress_bar=False)
    assert_same_results(own(TEXTS, LABELS[2], threshold=0.0), expected)
    for name in ("cpu", "gpu", "mps"):  # the reference's rule: what does not name CUDA is the CPU
        assert ZeroShotClassificationPipeline(tmp_path, device=name).device.type == "cpu"
    assert own.pipe is own and own.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(TypeError, match="give a tokenizer"):
        ZeroShotClassificationPipeline(model)
    with pytest.raises(TypeError, match="must be a GLiClassModel"):
        ZeroShotClassificationPipeline(7, byte_tokenizer())


def test_the_users_weights_are_not_changed(model: Any) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for encoder in ("deberta-v2", "bert"):
        other = reference_model(encoder, {"type_vocab_size": 2})
        copy = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        fast_pipeline(other)("x", ["a"])
        assert all(torch.equal(copy[name], tensor) for name, tensor in other.state_dict().items())
    fast_pipeline(model)("x", ["a"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_accelerate_swaps_the_engine_in() -> None:
    model = reference_model(scorer_type="mlp")
    pipeline = reference_pipeline(model, max_length=100)
    expected = [pipeline(text, LABELS[2], threshold=0.0)[0] for text in TEXTS]
    embedded = pipeline.get_embeddings(TEXTS[2], LABELS[2])[0]["logits"]
    assert gliclass_fast.accelerate(pipeline) is pipeline
    assert isinstance(pipeline.pipe, ZeroShotClassificationPipeline) and pipeline.pipe.max_length == 100
    assert_same_results(pipeline(TEXTS, LABELS[2], threshold=0.0), expected)
    assert_same_logits(pipeline.get_embeddings(TEXTS[2], LABELS[2])[0]["logits"], embedded)

    chunking = gliclass.ZeroShotClassificationWithChunkingPipeline(
        model, byte_tokenizer(), device="cpu", progress_bar=False, labels_chunk_size=2
    )
    expected = chunking(TEXTS, LABELS[2], batch_size=1)
    assert gliclass_fast.accelerate(chunking) is chunking
    assert isinstance(chunking, gliclass.ZeroShotClassificationWithChunkingPipeline)
    assert_same_results(chunking(TEXTS, LABELS[2]), expected)
    model.model.forward = None  # nothing of the reference's model runs any more
    assert_same_results(chunking(TEXTS, LABELS[2]), expected)
    embeddings = chunking.get_embeddings(TEXTS[0], LABELS[0])[0]["logits"]
    assert len(embeddings) == len(LABELS[0])
    ours = pipeline.pipe
    assert gliclass_fast.accelerate(ours) is ours
    with pytest.raises(TypeError, match="accelerate takes a gliclass ZeroShotClassificationPipeline"):
        gliclass_fast.accelerate(object())


def test_logits_that_are_not_finite_raise() -> None:
    model = reference_model(scorer_type="mlp")
    with torch.no_grad():
        model.model.scorer.mlp[4].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"text 0.*float32"):
        fast_pipeline(model)(TEXTS[:1], ["a"])
    with pytest.raises(FloatingPointError, match=r"text 0.*float32"):
        fast_pipeline(model).get_embeddings(TEXTS[:1], ["a"])


@pytest.mark.parametrize("option", ["images", "audio"])
def test_what_the_engine_does_not_have_is_refused(model: Any, option: str) -> None:
    with pytest.raises(TypeError, match=f"{option} is not supported: this engine reads text alone"):
        fast_pipeline(model)("x", ["a"], **{option: ["y"]})


def test_the_progress_bar_is_the_users_choice(
    model: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = fast_pipeline(model)
    pipeline(TEXTS, ["a"])
    assert capsys.readouterr().err == ""
    pipeline.progress_bar = True
    many = ["x"] * (CHUNK + 1)
    for terminal, texts in ((True, TEXTS), (False, many)):  # a short call, and a log that nobody watches
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        pipeline(texts, ["a"])
        assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for call in (pipeline, pipeline.get_embeddings):
        call(many, ["a"])
        assert "100%" in capsys.readouterr().err


def test_the_demo_checkpoint_matches_the_reference() -> None:
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    theirs = gliclass.GLiClassModel.from_pretrained(demo.PATH, dtype=torch.float32)
    reference = reference_pipeline(theirs, pipeline.tokenizer)
    labels = ["positive review", "negative review", "music", "banking", "travel", "science and technology"]
    expected = [reference(text, labels, threshold=0.0)[0] for text in TEXTS]
    assert_same_results(pipeline(TEXTS, labels, threshold=0.0), expected)
    for kind in ("single-label", "multi-label"):
        found = pipeline(TEXTS, labels, classification_type=kind)
        wanted = [reference(text, labels, classification_type=kind)[0] for text in TEXTS]
        assert_same_results(found, wanted)


def test_columns_and_arrays_are_lists() -> None:
    pipeline = fast_pipeline(reference_model())
    texts, labels = ["a text", "another"], ["x", "y"]
    expected = pipeline(texts, labels, threshold=0.0)
    assert pipeline(np.array(texts), np.array(labels), threshold=0.0) == expected


@pytest.mark.long
def test_torch_compile_runs_calls_as_they_are(model: Any) -> None:
    fast, long_texts = fast_pipeline(model), gliclass.ZeroShotClassificationWithChunkingPipeline
    others = long_texts(model, byte_tokenizer(), device="cpu", progress_bar=False)
    inputs = fast.prepare_inputs(TEXTS[:2], LABELS[2])

    def embeddings() -> Any:
        return fast.get_embeddings(TEXTS[:2], LABELS[2])[0]["logits"].tolist()

    for call, given in (
        (fast.model, dict(inputs)),
        (embeddings, {}),
        *(
            (each, {"texts": TEXTS[:2], "labels": LABELS[2]})
            for each in (fast, gliclass_fast.accelerate(others))
        ),
        (streaming(), {"texts": TEXTS[0], "labels": LABELS[2], "session_ids": "a"}),
    ):
        expected = copy.deepcopy(call)(**given)
        found = torch.compile(call, backend="eager")(**given)
        assert str(found) == str(expected)
