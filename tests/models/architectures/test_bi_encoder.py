"""Bi-encoders give the reference's logits, and read every label once."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

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
from gliclass_fast.text.errors import LabelsDoNotFit
from tests.accuracy import ALONE_TOLERANCE, assert_same_results, assert_unchanged
from tests.pairwise import BOTH, Row, in_words, pairwise
from tests.parity import assert_parity
from tests.sentences import LABELS, SHORT_LABELS, SHORT_TEXTS, TEXTS
from tests.tiny import SHOT, VECTOR_POOLINGS, byte_tokenizer, fast_pipeline, label_tower, reference_model

# of a label given twice the reference rounds the scores apart, and with them the best label
OWN_LABELS = [list(dict.fromkeys(own)) for own in LABELS]
KINDS = ("bi-encoder", "bi-encoder-fused")
TOWERS = {"bert": "deberta-v2", "deberta-v2": "bert", "modernbert": "roberta"}  # text: label
SCORERS = ("simple", "weighted-dot", "mlp", "hopfield")
ROWS = pairwise(
    kind=KINDS,
    text=tuple(TOWERS),
    scorer_type=SCORERS,
    prompt_first=BOTH,
    normalize_features=BOTH,
    shot=BOTH,
)


def tiny(kind: str, text: str = "bert", label: str = "deberta-v2", **options: Any) -> Any:
    return reference_model(text, architecture_type=kind, **label_tower(label), **options)


def check(model: Any, labels: list[list[str]] = OWN_LABELS, **arguments: Any) -> None:
    assert_parity(model, TEXTS, labels, max_length=512, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=in_words)
def test_options(row: Row) -> None:
    options = dict(row)
    kind, text, shot = (options.pop(name) for name in ("kind", "text", "shot"))
    check(tiny(kind, text, TOWERS[text], **options), **(SHOT if shot else {}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", VECTOR_POOLINGS)
def test_poolings_of_one_label(kind: str, pooling: str) -> None:
    """With more labels the reference pools over the padding of the shorter ones."""
    check(tiny(kind, scorer_type="mlp", pooling_strategy=pooling), [own[:1] for own in LABELS])


def test_a_calibrator_and_a_wider_label_tower() -> None:
    wide = label_tower("bert", {"hidden_size": 48, "num_attention_heads": 4})
    calibrator = {"use_calibrator": True, "calibrator_use_bias": True}
    check(reference_model("bert", architecture_type="bi-encoder", **wide, **calibrator))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_backends(kind: str, backend: str) -> None:
    assert_parity(tiny(kind, scorer_type="mlp"), SHORT_TEXTS, SHORT_LABELS, backend=backend)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the labels that every run of the label tower reads."""
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
    assert_same_results([each[5:] for each in first], [each[:-1] for each in again], ALONE_TOLERANCE)


def test_the_cache_is_bounded_and_follows_the_model(counted: list[int]) -> None:
    model = GLiClassModel.from_gliclass(tiny("bi-encoder"), device="cpu")
    cache = label_cache.LabelCache(model, byte_tokenizer(), 512, 256, capacity=4)
    both = cache.vectors([("a", "b", "c"), ("c", "d", "e")])
    assert [len(each) for each in both] == [3, 3] and counted == [5]
    cache.vectors([("e",)])
    assert counted == [5]
    again = cache.vectors([("a", "c")])[0]
    assert counted == [5, 1]  # "a" was used the longest ago
    assert_unchanged(again, both[0][[0, 2]])
    model.to(torch.bfloat16).to(torch.float32)
    cache.vectors([("c",)])
    assert counted == [5, 1, 1]


def test_label_order_and_duplicates() -> None:
    pipeline = fast_pipeline(tiny("bi-encoder"))
    found = pipeline("a text", ["long label here", "b", "long label here"], threshold=0.0)[0]
    assert [each["label"] for each in found] == ["long label here", "b", "long label here"]
    assert found[0]["score"] == found[2]["score"]
    passes = pipeline("a text", ["long label here", "b"], threshold=0.0, labels_per_pass=1)[0]
    assert_same_results(passes, found[:2], ALONE_TOLERANCE)


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


def test_markers_need_not_exist_but_where_they_are_read(dtypes_of_a_gpu: None) -> None:
    """The reference gives bi-encoders indices beyond the vocabulary, and a load on a GPU probes the model."""
    beyond = {"class_token_index": 9999, "text_token_index": 9999}
    assert GLiClassModel.from_gliclass(tiny("bi-encoder", **beyond), device="cpu").dtype is torch.float16
    with pytest.raises(UnsupportedConfigError, match="class_token_index=9999"):
        GLiClassModel.from_gliclass(tiny("bi-encoder-fused", **beyond), device="cpu")


def test_a_label_is_never_cut() -> None:
    pipeline = fast_pipeline(tiny("bi-encoder"), max_length=12)
    message = "do not fit the window of 12 tokens: 'finance and banking' needs"
    with pytest.raises(LabelsDoNotFit, match=message) as found:
        pipeline("a text", ["finance and banking", "finance and sports"])
    copy = pickle.loads(pickle.dumps(found.value))
    assert str(copy) == str(found.value)
    assert str(copy).endswith("Shorten it, or raise max_length where the model allows it")


def test_examples_are_left_out_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = fast_pipeline(tiny("bi-encoder"))
    shots = [{"text": "so good", "labels": ["x"]}]
    for _ in range(2):
        assert pipeline("a", ["b"], examples=shots, threshold=0.0) == pipeline("a", ["b"], threshold=0.0)
    assert caplog.text.count("read no examples") == 1


def test_a_text_with_markers_is_read_as_by_the_reference() -> None:
    assert_parity(tiny("bi-encoder"), ["a <<LABEL>> b <<SEP>>", "<<EXAMPLE>>"], [["x", "y"]] * 2)


def test_a_label_tokenizer_is_needed() -> None:
    reference = tiny("bi-encoder")
    reference.config.label_model_name = None
    model = GLiClassModel.from_gliclass(reference, device="cpu")
    with pytest.raises(ValueError, match="label_model_name"):
        ZeroShotClassificationPipeline(model, byte_tokenizer(), device="cpu")


def test_a_label_tokenizer_that_is_not_there_says_whose_it_is(tmp_path: Path) -> None:
    model = GLiClassModel.from_gliclass(tiny("bi-encoder"), device="cpu")
    with pytest.raises(CheckpointError, match=r"label_model_name=.*labels_tokenizer=.*no tokenizer"):
        ZeroShotClassificationPipeline(model, byte_tokenizer(), device="cpu", labels_tokenizer=tmp_path)
