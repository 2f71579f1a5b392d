"""What is set on a pipeline later counts from the next call on, as in the reference, or raises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import normalizers

import gliclass_fast
from gliclass_fast import (
    ArgumentError,
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
OTHER.backend_tokenizer.normalizer = normalizers.Lowercase()
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
        ("chunk_tokens", "all", TypeError),
        ("overlap_tokens", -1, ValueError),
        ("tokenizer", 5, TypeError),
        ("tokenizer", None, TypeError),
        ("tokenizer", object(), TypeError),
        ("labels_tokenizer", 5, ValueError),
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


@pytest.mark.parametrize("value", [5, object(), gliznet_tokenizer()], ids=["5", "an object", "GliZNET's"])
@pytest.mark.parametrize("kind", ["bi-encoder", "bi-encoder-fused"])
def test_what_is_no_labels_tokenizer_raises_and_changes_nothing(kind: str, value: Any) -> None:
    pipeline = fast_pipeline(families.reference(kind))
    before, own = pipeline(TEXTS[0], LABELS[0], threshold=0.0), pipeline.labels_tokenizer
    with pytest.raises(ArgumentError, match=r"labels_tokenizer: .* is not a fast tokenizer") as raised:
        pipeline.labels_tokenizer = value
    assert isinstance(raised.value, TypeError) and pipeline.labels_tokenizer is own
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


@pytest.mark.parametrize("kind", ["bi-encoder", "bi-encoder-fused"])
def test_a_labels_tokenizer_that_was_changed_in_place_counts_once_it_is_set_again(kind: str) -> None:
    own, tokenizer = families.reference(kind), new_byte_tokenizer()
    pipeline = fast_pipeline(own, labels_tokenizer=tokenizer)
    before = pipeline(TEXTS[0], ["WORD"], threshold=0.0)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert pipeline(TEXTS[0], ["WORD"], threshold=0.0) == before
    pipeline.labels_tokenizer = tokenizer
    found = pipeline(TEXTS[0], ["WORD"], threshold=0.0)
    assert found != before
    assert found == fast_pipeline(own, labels_tokenizer=tokenizer)(TEXTS[0], ["WORD"], threshold=0.0)


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


WRONG_KINDS = [5, True, [], {}, object(), "both", "single-label", np.array(["a", "b"]), 10**5000]


@pytest.mark.parametrize("value", WRONG_KINDS, ids=lambda value: type(value).__name__)
def test_a_wrong_kind_of_gliznet_raises_and_changes_nothing(value: Any) -> None:
    ours = families.loaded(families.reference("GliZNet D"))
    message = "unsupported classification type .* choose 'multi-label' or 'multi-class'"
    with pytest.raises(ArgumentError, match=message):
        gliznet.ZeroShotClassificationPipeline(ours, gliznet_tokenizer(), classification_type=value)
    pipeline = gliznet.ZeroShotClassificationPipeline(ours, gliznet_tokenizer(), "multi-class")
    before = pipeline(TEXTS[0], LABELS[0])
    with pytest.raises(ArgumentError, match=message):
        pipeline(TEXTS[0], LABELS[0], classification_type=value)
    for name in ("classification_type", "tokenizer"):
        with pytest.raises(ArgumentError):
            setattr(pipeline, name, value if name == "classification_type" else object())
    assert pipeline.classification_type == "multi-class" and pipeline(TEXTS[0], LABELS[0]) == before


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_window_is_that_of_the_tokenizer_of_now(wrapped: bool) -> None:
    ours, tokenizer = families.loaded(families.reference("GliZNet D")), new_byte_tokenizer(lab=True)
    tokenizer.model_max_length = 60
    given = gliznet.GliZNETTokenizer(tokenizer) if wrapped else tokenizer
    text, labels = "some text " * 12, ["sports", "the arts"]
    pipelines = [
        face(ours, given, device="cpu", progress_bar=False, max_length=1024)
        for face in (ZeroShotClassificationPipeline, ZeroShotClassificationWithChunkingPipeline)
    ]
    for longest in (60, 100, 1 << 40, 40):
        tokenizer.model_max_length = longest
        fresh = fast_pipeline(ours, given, max_length=1024)
        for pipeline in pipelines:
            for run in (pipeline, fresh):
                run.on_truncation = "ignore"
            [found], [info] = pipeline(text, labels, 0.0, return_info=True)
            [expected], [its_info] = fresh(text, labels, 0.0, return_info=True)
            assert sorted(map(str, found)) == sorted(map(str, expected))
            assert info == its_info and (info.tokens_cut > 0) == (longest <= 100)
        _, [info] = pipelines[1](text, labels, chunk_tokens="auto", return_info=True)
        assert info.tokens_cut == 0 and (info.passes > 1) == (longest <= 100)
        for mine, its in zip(
            pipelines[0].get_embeddings(text, labels), fresh.get_embeddings(text, labels), strict=True
        ):
            assert np.array_equal(mine["logits"], its["logits"])
        inputs = pipelines[0].prepare_inputs([text], [labels])
        assert inputs["input_ids"].shape == fresh.prepare_inputs([text], [labels])["input_ids"].shape


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
