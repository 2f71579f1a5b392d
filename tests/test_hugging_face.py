"""`gliclass_fast.pipeline(...)` has the shapes, the order and the errors of transformers' pipeline."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterator
from enum import Enum
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from torch.utils.data import Dataset

import gliclass_fast
import gliclass_fast.pipeline as module
from gliclass_fast import ArgumentError, HuggingFacePipeline, ZeroShotClassificationPipeline, demo
from tests.tiny import backbone_config, byte_tokenizer

TASK = "zero-shot-classification"
TEXTS = ["Add this song to my playlist.", "Book a table for two.", "It rains."]
LABELS = ["weather", "music", "restaurants"]


class Column(Dataset):
    """A dataset as transformers' KeyDataset: it has a length and places, and no iterator."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, place: int) -> str:
        return TEXTS[place]


@pytest.fixture(scope="module")
def ours() -> HuggingFacePipeline:
    return gliclass_fast.pipeline(TASK, model=demo.PATH, device=-1)


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    config = backbone_config("bert")
    config.label2id, config.id2label = {"no": 0, "entailment": 1}, {0: "no", 1: "entailment"}
    model = transformers.BertForSequenceClassification(config).eval()
    return transformers.pipeline(TASK, model=model, tokenizer=byte_tokenizer(), device=-1)


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "one text": ((TEXTS[0],), {"candidate_labels": LABELS}),
    "labels by position": ((TEXTS[0], LABELS), {}),
    "labels in a string": ((TEXTS[0],), {"candidate_labels": " weather,music , ,restaurants"}),
    "one label": ((TEXTS[0],), {"candidate_labels": "music"}),
    "a list": ((TEXTS,), {"candidate_labels": LABELS}),
    "a list of one": ((TEXTS[:1],), {"candidate_labels": LABELS}),
    "several labels": ((TEXTS,), {"candidate_labels": LABELS, "multi_label": True}),
    "a template": ((TEXTS,), {"candidate_labels": LABELS, "hypothesis_template": "It is about {}."}),
    "a batch size": ((TEXTS,), {"candidate_labels": LABELS, "batch_size": 2}),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_have_the_shape_of_transformers(ours: Any, theirs: Any, name: str) -> None:
    positional, named = CALLS[name]
    found, expected = ours(*positional, **named), theirs(*positional, **named)
    assert type(found) is type(expected)
    many = (found, expected) if isinstance(expected, list) else ([found], [expected])
    for own, other in zip(*many, strict=True):
        assert list(own) == list(other) == ["sequence", "labels", "scores"]
        assert own["sequence"] == other["sequence"]
        for each in (own, other):
            assert {type(score) for score in each["scores"]} == {float}
            assert each["scores"] == sorted(each["scores"], reverse=True)
        assert sorted(own["labels"]) == sorted(other["labels"])
        if not named.get("multi_label") and len(own["labels"]) > 1:
            assert sum(own["scores"]) == pytest.approx(1) == pytest.approx(sum(other["scores"]))


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        ((TEXTS[0],), {"candidate_labels": []}),
        ((TEXTS[0],), {"candidate_labels": " , "}),
        ((TEXTS[0],), {"candidate_labels": LABELS, "hypothesis_template": "It is about something."}),
        ((TEXTS[0],), {}),
        ((TEXTS[0], LABELS), {"candidate_labels": LABELS}),
        ((TEXTS[0], LABELS, True), {}),
    ],
)
def test_what_raises_there_raises_here(ours: Any, theirs: Any, positional: Any, named: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        theirs(*positional, **named)
    with pytest.raises(ArgumentError):
        ours(*positional, **named)


def test_more_errors(ours: Any) -> None:
    pipeline: Any = gliclass_fast.pipeline
    for arguments, message in (
        ({"task": "fill-mask", "model": demo.PATH}, "unknown task 'fill-mask'"),
        ({"task": TASK}, "give model="),
    ):
        with pytest.raises(ArgumentError, match=message):
            pipeline(**arguments)
    for wrong, message in (
        (
            {"threshold": 0.5},
            "unknown argument 'threshold'; known: candidate_labels, .*Hugging Face's shape",
        ),
        *(
            ({"hypothesis_template": wrong}, "where the label goes")
            for wrong in ("", "{a}", "{} {}", "{", "{{}}", "{0[a]}", 3)
        ),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ):
        with pytest.raises(ArgumentError, match=message):
            ours(iter(TEXTS), LABELS, **wrong)  # at once, not when the results are read
    for texts in (3, {"a": 1}, {"a"}, b"x"):
        with pytest.raises(TypeError, match="sequences"):
            ours(texts, LABELS)
    with pytest.raises(ValueError, match=r"texts\[2\] is not valid text"):
        list(ours(iter([*TEXTS[:2], "\ud800"]), LABELS, batch_size=1))


def test_scores_are_those_of_the_pipeline(ours: Any) -> None:
    classifier = ours.classifier
    for many, kind in ((True, "multi-label"), (False, "single-label")):
        [scores] = classifier(TEXTS[0], LABELS, classification_type=kind, return_hierarchical=True)
        found = ours(TEXTS[0], LABELS, multi_label=many)
        assert dict(zip(found["labels"], found["scores"], strict=True)) == scores
        assert found == ours(TEXTS[0], LABELS, multi_label=many, hypothesis_template="{}")
        best = ours(TEXTS[0], LABELS, multi_label=many, top_k=2)
        assert best["labels"] == found["labels"][:2] and best["scores"] == found["scores"][:2]
    template = "a text on {}"
    [scores] = classifier(TEXTS[0], [template.format(label) for label in LABELS], return_hierarchical=True)
    found = ours(TEXTS[0], LABELS, multi_label=True, hypothesis_template=template)
    assert found["labels"][0] == "music" and found["scores"] == sorted(scores.values(), reverse=True)
    assert ours(TEXTS[0], ["{}"], hypothesis_template=template)["labels"] == ["{}"]
    asked = ours(TEXTS[0], LABELS, prompt="Classify: ", multi_label=True)
    assert asked["scores"] != ours(TEXTS[0], LABELS, multi_label=True)["scores"]
    assert ours(TEXTS[0], ["music", "music"])["labels"] == ["music", "music"]
    member = Enum("Text", {"ONE": TEXTS[0]}, type=str).ONE
    assert ours([member], [Enum("Label", {"ONE": "music"}, type=str).ONE]) == ours(TEXTS[:1], ["music"])
    assert type(ours(member, LABELS)["sequence"]) is str
    assert ours([], LABELS) == list(ours(iter([]), LABELS)) == []


def test_the_texts_of_a_stream_share_what_a_call_gives(ours: Any) -> None:
    shots = [{"text": "Play it.", "labels": ["music"]}]
    retrieved = [{"text": "Play it.", "true_labels": ["music"]}]
    for options in ({"examples": shots}, {"rac_examples": retrieved, "prompt": "Topic: "}):
        expected = ours(TEXTS, LABELS, **options)
        assert expected != ours(TEXTS, LABELS)
        once = {name: each if isinstance(each, str) else iter(each) for name, each in options.items()}
        assert list(ours(iter(TEXTS), LABELS, batch_size=1, **once)) == expected
    for name, each in (("prompt", "Topic: "), ("examples", shots), ("rac_examples", retrieved)):
        with pytest.raises(ArgumentError, match=f"share their {name}"):
            ours(iter(TEXTS), LABELS, batch_size=1, **{name: [each]})
    with pytest.raises(ArgumentError, match="share their prompt"):
        ours(iter(TEXTS), LABELS, prompt=[None] * len(TEXTS))


def test_streams_give_results_as_they_come(ours: Any) -> None:
    expected = ours(TEXTS, LABELS)
    for stream in (iter(TEXTS), (text for text in TEXTS), Column(), map(str, TEXTS)):
        found = ours(stream, LABELS)
        assert isinstance(found, Iterator)
        assert list(found) == expected
    read: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            read.append(len(read))
            yield TEXTS[len(read) % len(TEXTS)]

    results = ours(endless(), LABELS, batch_size=2)
    assert read == []  # nothing is read before somebody asks
    for number in range(1, 6):
        next(results)
        assert len(read) == number + number % 2
    results = ours(endless(), LABELS)
    read.clear()
    next(results)
    assert len(read) == 8


def test_defaults_of_the_constructor() -> None:
    pipeline: Any = gliclass_fast.pipeline
    ours = pipeline(
        TASK, demo.PATH, device="cpu", candidate_labels=LABELS, multi_label=True, top_k=1, max_length=64
    )
    assert len(ours(TEXTS[0])["labels"]) == 1 and len(ours(TEXTS[0], top_k=3)["labels"]) == 3
    assert ours.device.type == "cpu" and ours.classifier.max_length == 64
    classifier = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    same = pipeline(model=classifier.model, tokenizer=classifier.tokenizer, device="cpu")
    assert same(TEXTS, LABELS, multi_label=True, top_k=1) == ours(TEXTS)
    assert pickle.loads(pickle.dumps(same))(TEXTS, LABELS) == same(TEXTS, LABELS)


def test_what_published_scripts_pass() -> None:
    pipeline: Any = gliclass_fast.pipeline
    ours = pipeline(
        TASK, demo.PATH, device=-1, batch_size=8, framework="pt", use_fast=True, num_workers=0,
        model_kwargs={"dtype": "float32"}, torch_dtype=None,
    )  # fmt: skip
    found = ours(TEXTS, LABELS, multi_class=True, num_workers=2, truncation=True)
    assert found == ours(TEXTS, LABELS, multi_label=True)
    assert ours.model is ours.classifier.model and ours.tokenizer is ours.classifier.tokenizer


@pytest.mark.parametrize("name", [name for name in CALLS if "candidate_labels" in CALLS[name][1]])
def test_our_own_pipeline_takes_the_same_call(ours: Any, name: str) -> None:
    positional, named = CALLS[name]
    expected = ours(*positional, **named)
    classifier = ours.classifier
    assert classifier(*positional, **named) == expected
    renamed = {"labels": named["candidate_labels"], "top_k": len(LABELS), "multi_label": False} | named
    del renamed["candidate_labels"]
    assert classifier(texts=positional[0], **renamed) == expected


def test_labels_of_our_own_call_keep_the_type_of_the_pipeline(ours: Any) -> None:
    classifier = ours.classifier
    assert classifier.classification_type == "multi-label"
    stream = classifier(iter(TEXTS), LABELS, top_k=2)
    expected = ours(TEXTS[0], LABELS, top_k=2, multi_label=True)
    assert isinstance(stream, Iterator) and next(stream) == expected
    own = {each["label"]: each["score"] for each in classifier(TEXTS[0], LABELS, threshold=0.0)[0]}
    assert expected["scores"] == [own[label] for label in expected["labels"]]


def test_our_own_pipeline_refuses_a_mixture(ours: Any) -> None:
    for mixed in ({"threshold": 0.5, "top_k": 1}, {"labels": LABELS, "candidate_labels": LABELS}):
        with pytest.raises(ArgumentError, match=r"unknown argument '(threshold|labels)'"):
            ours.classifier(TEXTS[0], **{"candidate_labels": LABELS, **mixed})


def test_labels_that_are_alike_have_scores_of_their_own(ours: Any) -> None:
    """A label's score depends on its place too."""
    labels = ["music", "weather", "music"]
    logits = ours.classifier.get_embeddings(TEXTS[0], labels)[0]["logits"]
    found = ours(TEXTS[0], labels)
    assert sorted(found["labels"]) == sorted(labels) and sum(found["scores"]) == pytest.approx(1)
    expected = torch.as_tensor(logits).flatten().softmax(0).sort(descending=True).values
    torch.testing.assert_close(torch.tensor(found["scores"]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("positional", "named", "message"),
    [
        ((), {}, "give texts"),
        (("a",), {"texts": "b"}, "given twice"),
        ((), {"texts": "a", "sequences": "b"}, "given twice"),
    ],
)
def test_texts_are_given_once(ours: Any, positional: Any, named: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ours.classifier(*positional, **named, candidate_labels=["music"])


def test_the_order_of_the_arguments_is_that_of_transformers() -> None:
    pipeline: Any = gliclass_fast.pipeline
    inputs = dict.fromkeys(("feature_extractor", "image_processor", "processor", "pipeline_class"))
    ours = pipeline(TASK, demo.PATH, demo.PATH, demo.PATH, device="cpu", **inputs)
    assert ours.task == TASK and repr(ours).startswith("HuggingFacePipeline(ZeroShotClassificationPipeline(")
    with pytest.raises(TypeError, match="feature_extractor"):
        pipeline(TASK, demo.PATH, feature_extractor=3)


def test_the_module_stays_a_module() -> None:
    assert module is gliclass_fast.pipeline is importlib.import_module("gliclass_fast.pipeline")
    assert callable(module) and module.ZeroShotClassificationPipeline is ZeroShotClassificationPipeline
    with mock.patch("gliclass_fast.pipeline.settings.load_model", side_effect=OSError("patched")):
        with pytest.raises(OSError, match="patched"):
            ZeroShotClassificationPipeline(demo.PATH)
        with pytest.raises(OSError, match="patched"):
            module(TASK, demo.PATH)  # type: ignore[operator]
    assert pickle.loads(pickle.dumps(module.ZeroShotClassificationPipeline)) is ZeroShotClassificationPipeline
