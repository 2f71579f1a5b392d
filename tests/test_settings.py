"""What is set on a pipeline later counts from the next call on, as in the reference, or raises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gliclass_fast
from gliclass_fast import (
    ZeroShotClassificationPipeline,
    ZeroShotClassificationWithChunkingPipeline,
    demo,
    gliznet,
)
from gliclass_fast.checkpoint.files import load_tokenizer
from gliclass_fast.engine.engine import Engine
from tests import families
from tests.accuracy import assert_same_results
from tests.sentences import LABELS, TEXTS
from tests.tiny import (
    byte_tokenizer,
    fast_pipeline,
    gliznet_tokenizer,
    loaded,
    new_byte_tokenizer,
    reference_model,
    reference_pipeline,
)

OTHER = new_byte_tokenizer()
OTHER.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Lowercase()
SETTINGS: dict[str, Any] = {
    "max_length": 60,
    "tokenizer": OTHER,
    "classification_type": "single-label",
    "max_classes": 2,
    "progress_bar": True,
    "label_separator": "/",
    "device": torch.device("cpu"),
}


@pytest.mark.parametrize("kind", [None, "bi-encoder", "encoder-decoder, umT5"])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_count_from_the_next_call(name: str, kind: str | None) -> None:
    model = reference_model(scorer_type="mlp") if kind is None else families.reference(kind)
    theirs, ours = reference_pipeline(model), fast_pipeline(model)
    labels = {"Topic": LABELS[2]} if name == "label_separator" else LABELS[2]
    ours(TEXTS[0], labels)
    for each in (theirs, ours):
        setattr(each.pipe, name, SETTINGS[name])
        setattr(each, name, SETTINGS[name]) if hasattr(each, name) else None
    for text in TEXTS:
        expected = theirs(text, labels, threshold=0.0)
        assert_same_results(ours(text, labels, threshold=0.0), expected)


def test_what_is_set_while_another_thread_calls_counts_from_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, settings = fast_pipeline(reference_model()), [40, 30]
    build = Engine._bind

    def slowly(engine: Engine) -> None:
        build(engine)
        if settings:  # the other thread makes its engine of the settings that were there before
            ours.max_length = settings.pop()

    monkeypatch.setattr(Engine, "_bind", slowly)
    ours.max_length = 50
    assert [ours.engine.window for _ in range(3)] == [50, 30, 40]


def test_another_model_counts_from_the_next_call() -> None:
    ours, other = fast_pipeline(reference_model()), reference_model(scorer_type="mlp", prompt_first=False)
    ours.model = other
    assert_same_results(
        ours(TEXTS[:3], LABELS[2], threshold=0.0), fast_pipeline(other)(TEXTS[:3], LABELS[2], threshold=0.0)
    )


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_length", 0, ValueError),
        ("max_length", "512", TypeError),
        ("batch_tokens", 0, ValueError),
        ("classification_type", "both", ValueError),
        ("model", 3, TypeError),
        ("label_token", "<<X>>", AttributeError),
        ("sep_token", "<<X>>", AttributeError),
        ("example_token", "<<X>>", AttributeError),
        ("label_separator", None, TypeError),
        ("text_chunk_size", None, TypeError),
        ("text_chunk_overlap", -1, ValueError),
        ("labels_chunk_size", 0, ValueError),
    ],
)
def test_what_cannot_be_set_raises_and_changes_nothing(name: str, value: Any, error: type[Exception]) -> None:
    pipeline = ZeroShotClassificationWithChunkingPipeline(
        loaded(reference_model()), byte_tokenizer(), progress_bar=False
    )
    before = pipeline(TEXTS[0], LABELS[0], threshold=0.0)
    setattr(pipeline, name, getattr(pipeline, name))  # what it has may be set
    with pytest.raises(error, match=name.replace("classification_type", "classification type")):
        setattr(pipeline, name, value)
    assert pipeline(TEXTS[0], LABELS[0], threshold=0.0) == before


def test_a_tokenizer_of_another_checkpoint_raises_at_the_next_call() -> None:
    pipeline = fast_pipeline(reference_model(), byte_tokenizer())
    pipeline.tokenizer = str(demo.PATH)
    with pytest.raises(ValueError, match="does not belong to this checkpoint"):
        pipeline(TEXTS[0], LABELS[0])


def test_a_tokenizer_that_was_changed_in_place_counts_once_it_is_set_again() -> None:
    pipeline = fast_pipeline(reference_model("bert"))
    before = pipeline.engine
    pipeline.tokenizer = pipeline.tokenizer
    pipeline.max_length = pipeline.max_length
    assert pipeline.engine is not before and pipeline.engine is pipeline.engine


def test_another_model_keeps_the_options_and_finds_its_label_tokenizer() -> None:
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", dtype="bfloat16", on_change="error")
    pipeline.model = str(demo.PATH)
    assert pipeline.model.dtype is torch.bfloat16 and pipeline.model.on_change == "error"
    pipeline = fast_pipeline(reference_model())
    for other in (families.reference("bi-encoder"), reference_model()):
        pipeline.model = other
        expected = [reference_pipeline(other)(text, LABELS[2], threshold=0.0)[0] for text in TEXTS]
        assert_same_results(pipeline(TEXTS, LABELS[2], threshold=0.0), expected)
    with pytest.raises(ValueError, match="labels_tokenizer is for bi-encoders"):
        pipeline.labels_tokenizer = byte_tokenizer()


def test_settings_of_gliznet_count_or_raise() -> None:
    ours = families.loaded(families.reference("GliZNet D"))
    pipeline = gliznet.ZeroShotClassificationPipeline(ours, gliznet_tokenizer())
    before = pipeline(TEXTS[0], LABELS[0])
    with pytest.raises(TypeError, match="model must be a loaded one"):
        pipeline.model = "nope"
    assert pipeline(TEXTS[0], LABELS[0]) == before
    pipeline.model = families.loaded(families.reference("GliZNet A"))
    assert pipeline(TEXTS[0], LABELS[0]) != before
    pipeline.tokenizer.tokenizer.model_max_length = 40
    assert pipeline.engine.window == 40
    pipeline.tokenizer = demo_tokenizer = load_tokenizer(demo.PATH)
    with pytest.raises(ValueError, match="does not belong to this checkpoint"):
        pipeline(TEXTS[0], LABELS[0])
    assert demo_tokenizer is pipeline.tokenizer.tokenizer
    for name, value, error in (
        ("tokenizer", 3, "int is not a fast tokenizer"),
        ("batch_tokens", "x", "batch_tokens must be a whole number"),
        ("batch_tokens", 0, "batch_tokens must be at least 1"),
    ):
        with pytest.raises((TypeError, ValueError), match=error):
            setattr(pipeline, name, value)


def test_options_of_the_model_go_through_the_constructor() -> None:
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", dtype="bfloat16", on_change="error")
    assert pipeline.model.dtype is torch.bfloat16 and pipeline.model.on_change == "error"
    assert repr(pipeline).startswith("ZeroShotClassificationPipeline(GLiClassModel(")
    with pytest.raises(TypeError, match=r"\['dtype'\] go with a path"):
        ZeroShotClassificationPipeline(pipeline.model, demo.PATH, device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (ZeroShotClassificationPipeline, ("owner/name",)),
        (ZeroShotClassificationPipeline, ("owner/name", "owner/name")),
        (gliclass_fast.pipeline, ("zero-shot-classification", "owner/name")),
    ],
    ids=["default", "same name", "Hugging Face"],
)
def test_the_tokenizer_comes_from_the_place_of_the_model(
    make: Any, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def download(name: str, allow_patterns: Any, **hub: Any) -> str:
        asked.append((name, hub))
        return str(demo.PATH.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    options = {"revision": "v2", "token": "secret"}
    pipeline = make(*given, device="cpu", subfolder=demo.PATH.name, **options)
    assert len(asked) > 1 and all(each == ("owner/name", options) for each in asked)
    with pytest.raises(ValueError, match="unsupported classification type"):
        make(*given, device="cpu", subfolder=demo.PATH.name, classification_type="x", **options)
    assert pipeline.tokenizer.get_vocab() == load_tokenizer(demo.PATH).get_vocab()


def test_devices_that_nobody_knows_are_the_cpu_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = reference_model()
    for device in ("mps", "cudaa", 0, -1, np.int64(0), np.int32(-1), None, "cuda:0", "cpu"):
        caplog.clear()
        assert fast_pipeline(model, device=device).device.type in ("cpu", "cuda")
        assert ("is none that the engine knows" in caplog.text) == (device in ("mps", "cudaa"))
