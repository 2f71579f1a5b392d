"""Bi-encoders against the reference, one text at a time; labels are read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast import (
    CheckpointError,
    GLiClassModel,
    UnsupportedConfigError,
    ZeroShotClassificationPipeline,
)
from gliclass_fast.engine import label_cache
from gliclass_fast.models.configuration import read_config
from gliclass_fast.runtime.loaded import LoadedNetwork
from tests.accuracy import ALONE_TOLERANCE, assert_same_logits
from tests.sentences import LABELS, TEXTS
from tests.tiny import (
    VECTOR_POOLINGS,
    alone,
    backbone_config,
    byte_tokenizer,
    fast_pipeline,
    reference_model,
    reference_pipeline,
)

# of a label given twice the reference rounds the scores apart, and with them the best label
DISTINCT = [list(dict.fromkeys(own)) for own in LABELS]
KINDS = ("bi-encoder", "bi-encoder-fused")
TOWERS = {"bert": "deberta-v2", "deberta-v2": "bert", "modernbert": "roberta"}  # text: label
SCORERS = ("simple", "weighted-dot", "mlp", "hopfield")


@pytest.fixture(scope="module", autouse=True)
def labels_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reference loads the label tower's tokenizer by name."""
    folder = tmp_path_factory.mktemp("labels")
    byte_tokenizer().save_pretrained(folder)
    tiny.folder = str(folder)  # type: ignore[attr-defined]
    return str(folder)


def tiny(kind: str, text: str = "bert", label: str = "deberta-v2", **options: Any) -> Any:
    return reference_model(
        text,
        architecture_type=kind,
        label_model_name=tiny.folder,  # type: ignore[attr-defined]
        label_model_config=backbone_config(label).to_dict(),
        **options,
    )


def check_parity(model: Any, labels: list[list[str]] = DISTINCT, **arguments: Any) -> None:
    expected = alone(reference_pipeline(model, max_length=512), TEXTS, labels, **arguments)
    found = fast_pipeline(model, max_length=512).get_embeddings(TEXTS, labels, **arguments)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same_logits(ours["logits"], theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TOWERS)
@pytest.mark.parametrize("scorer", SCORERS)
def test_scorers_and_towers(kind: str, text: str, scorer: str) -> None:
    check_parity(tiny(kind, text, TOWERS[text], scorer_type=scorer))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", VECTOR_POOLINGS)
def test_poolings_of_one_label(kind: str, pooling: str) -> None:
    """With more labels the reference pools over the padding of the shorter ones."""
    check_parity(tiny(kind, scorer_type="mlp", pooling_strategy=pooling), [own[:1] for own in LABELS])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt_first", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_switches(kind: str, prompt_first: bool, normalize: bool) -> None:
    model = tiny(kind, prompt_first=prompt_first, normalize_features=normalize)
    check_parity(model)
    check_parity(model, prompt="Task:", examples=[{"text": "so good", "labels": ["x", "y"]}])


def test_a_calibrator_and_a_wider_label_tower() -> None:
    wide = backbone_config("bert", {"hidden_size": 48, "num_attention_heads": 4}).to_dict()
    model = reference_model(
        "bert", architecture_type="bi-encoder", label_model_name=tiny.folder,  # type: ignore[attr-defined]
        label_model_config=wide, use_calibrator=True, calibrator_use_bias=True,
    )  # fmt: skip
    check_parity(model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_backends(kind: str, backend: str) -> None:
    model = tiny(kind, scorer_type="mlp")
    ours = GLiClassModel.from_gliclass(model, device="cpu", backend=backend)
    pipeline = fast_pipeline(ours, labels_tokenizer=byte_tokenizer())
    found = pipeline.get_embeddings(TEXTS[:3], LABELS[:3])
    expected = alone(reference_pipeline(model), TEXTS[:3], LABELS[:3])
    for each, wanted in zip(found, expected, strict=True):
        assert_same_logits(each["logits"], wanted)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many labels every run of the label tower read."""
    counts: list[int] = []
    compute = LoadedNetwork.label_vectors

    def counting(model: GLiClassModel, prompts: Any, batch_tokens: int) -> Any:
        counts.append(len(prompts))
        return compute(model, prompts, batch_tokens)

    monkeypatch.setattr(LoadedNetwork, "label_vectors", counting)
    return counts


def test_every_label_is_read_once(counted: list[int]) -> None:
    pipeline = fast_pipeline(tiny("bi-encoder"))
    shared = [f"label {number}" for number in range(20)]
    first = pipeline(TEXTS, shared, threshold=0.0)
    assert counted == [20]
    again = pipeline(TEXTS, [*shared[5:], "new"], threshold=0.0)
    assert counted == [20, 1]
    for one, two in zip(first, again, strict=True):
        for left, right in zip(one[5:], two[:-1], strict=True):
            assert left["score"] == pytest.approx(right["score"], abs=ALONE_TOLERANCE)


def test_the_cache_is_bounded_and_follows_the_model(counted: list[int]) -> None:
    model = GLiClassModel.from_gliclass(tiny("bi-encoder"), device="cpu")
    cache = label_cache.LabelCache(model, byte_tokenizer(), 512, 256, capacity=4)
    both = cache.vectors([("a", "b", "c"), ("c", "d", "e")])
    assert [len(each) for each in both] == [3, 3] and counted == [5]
    assert len(cache) == 4
    cache.vectors([("e",)])
    assert counted == [5]
    again = cache.vectors([("a", "c")])[0]
    assert torch.allclose(again[1], both[0][2])
    model.to(torch.bfloat16)
    before = len(counted)
    cache.vectors([("e",)])
    assert counted[before:] == [1]


def test_label_order_and_duplicates() -> None:
    pipeline = fast_pipeline(tiny("bi-encoder"))
    found = pipeline("a text", ["long label here", "b", "long label here"], threshold=0.0)[0]
    assert [each["label"] for each in found] == ["long label here", "b", "long label here"]
    assert found[0]["score"] == found[2]["score"]
    passes = pipeline("a text", ["long label here", "b"], threshold=0.0, labels_per_pass=1)[0]
    assert np.allclose([each["score"] for each in passes], [each["score"] for each in found[:2]], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_lstm", True),
        ("squeeze_layers", True),
        ("encoder_layer_id", 1),
        ("use_segment_embeddings", True),
        ("scorer_type", "cross-attn"),
        ("label_model_config", None),
        ("label_model_config", {"model_type": "gpt2"}),
        ("label_model_config", {"model_type": "t5"}),
        ("label_model_config", {"model_type": "llama"}),
        ("encoder_config", {"model_type": "qwen2"}),
    ],
)
def test_refused(kind: str, option: str, value: Any) -> None:
    raw = tiny(kind).config.to_dict() | {option: value}
    if option == "scorer_type":
        raw["pooling_strategy"] = "pass"
    with pytest.raises(UnsupportedConfigError, match=option):
        read_config(raw)


def test_markers_need_not_exist_but_where_they_are_read() -> None:
    """gliclass gives bi-encoders indices beyond the vocabulary; a load on a GPU probes the model."""
    beyond = {"class_token_index": 9999, "text_token_index": 9999}
    model = GLiClassModel.from_gliclass(tiny("bi-encoder", **beyond), device="cpu")
    assert model.loaded(model.loaded.pack(model.loaded.probe())).logits.isfinite().all()
    with pytest.raises(UnsupportedConfigError, match="class_token_index=9999"):
        GLiClassModel.from_gliclass(tiny("bi-encoder-fused", **beyond), device="cpu")


def test_a_label_is_never_cut() -> None:
    pipeline = fast_pipeline(tiny("bi-encoder"), max_length=12)
    with pytest.raises(ValueError, match="do not fit the window of 12 tokens: 'finance and banking'"):
        pipeline("a text", ["finance and banking", "finance and sports"])


def test_examples_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = fast_pipeline(tiny("bi-encoder"))
    shots = [{"text": "so good", "labels": ["x"]}]
    assert pipeline("a", ["b"], examples=shots, threshold=0.0) == pipeline("a", ["b"], threshold=0.0)
    assert "read no examples" in caplog.text


def test_a_label_tokenizer_is_needed() -> None:
    model = GLiClassModel.from_gliclass(tiny("bi-encoder"), device="cpu")
    with pytest.raises(ValueError, match="label_model_name"):
        ZeroShotClassificationPipeline(_unnamed(model), byte_tokenizer(), device="cpu")


def _unnamed(model: GLiClassModel) -> GLiClassModel:
    from dataclasses import replace

    model.config = replace(model.config, label_model_name=None)
    return model


def test_a_label_tokenizer_that_is_not_there_says_whose_it_is(tmp_path: Path) -> None:
    model = GLiClassModel.from_gliclass(tiny("bi-encoder"), device="cpu")
    with pytest.raises(CheckpointError, match=r"label_model_name=.*labels_tokenizer=.*no tokenizer"):
        ZeroShotClassificationPipeline(model, byte_tokenizer(), device="cpu", labels_tokenizer=tmp_path)
