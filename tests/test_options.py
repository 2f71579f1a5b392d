"""Options of a call that the reference lacks: descriptions, no answer, cut texts, orders of labels."""

from __future__ import annotations

import logging
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from gliclass_fast import (
    ArgumentError,
    ZeroShotClassificationPipeline,
    ZeroShotClassificationWithChunkingPipeline,
    demo,
)
from gliclass_fast.engine import truncation
from gliclass_fast.engine.permutations import orders
from gliclass_fast.runtime.loaded import LoadedNetwork
from tests.accuracy import assert_same_results
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model

TEXTS = ["Add this song to my playlist.", "I want my money back.", ""]
LABELS = ["music", "refund", "weather"]
MEANINGS = {"refund": "the customer wants the money back", "weather": "rain and sun"}


@pytest.fixture(scope="module")
def pipeline() -> ZeroShotClassificationPipeline:
    return ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)


@pytest.fixture(scope="module")
def chunking(pipeline: Any) -> ZeroShotClassificationWithChunkingPipeline:
    return ZeroShotClassificationWithChunkingPipeline(
        pipeline.model, pipeline.tokenizer, device="cpu", progress_bar=False
    )


def scores(found: list[list[dict[str, Any]]]) -> list[list[float]]:
    return [[each["score"] for each in own] for own in found]


def names(found: list[list[dict[str, Any]]]) -> list[list[str]]:
    return [[each["label"] for each in own] for own in found]


def test_descriptions_are_read_and_labels_returned(pipeline: Any, chunking: Any) -> None:
    read = ["music", MEANINGS["refund"], MEANINGS["weather"]]
    expected = pipeline(TEXTS, read, threshold=0)
    for labels, beside in (
        ({"music": "", **MEANINGS}, None),  # a label without a description is read itself
        (LABELS, MEANINGS),
        ([LABELS] * 3, MEANINGS),
        ([{"music": "music", **MEANINGS}] * 3, None),
    ):
        found = pipeline(TEXTS, labels, threshold=0, label_descriptions=beside)
        assert names(found) == [LABELS] * 3 and scores(found) == scores(expected)
        nested = pipeline(TEXTS, labels, label_descriptions=beside, return_hierarchical=True)
        assert [list(each.items()) for each in nested] == [
            list(zip(LABELS, own, strict=True)) for own in scores(expected)
        ]
    for many in (False, True):
        given = {"labels": LABELS, "label_descriptions": MEANINGS, "return_hierarchical": many}
        assert chunking(TEXTS, **given, threshold=0) == chunking(
            TEXTS, {"music": "", **MEANINGS}, threshold=0, return_hierarchical=many
        )
    groups = {"topic": ["music"], "intent": {"ask": "refund"}}
    found = pipeline(TEXTS, groups, threshold=0, label_descriptions={"intent.ask.refund": MEANINGS["refund"]})
    assert names(found)[0] == pipeline.flatten_labels(groups) == ["topic.music", "intent.ask.refund"]
    assert scores(found) == scores(pipeline(TEXTS, ["topic.music", MEANINGS["refund"]], threshold=0))
    assert pipeline.flatten_labels(MEANINGS) == ["refund", "weather"]
    single = pipeline(TEXTS[1], {"music": "songs", **MEANINGS}, classification_type="single")
    assert names(single) == [["refund"]]
    embedded = pipeline.get_embeddings(TEXTS[0], {"music": "songs", **MEANINGS})[0]["logits"]
    assert np.array_equal(
        embedded, pipeline.get_embeddings(TEXTS[0], ["songs", *MEANINGS.values()])[0]["logits"]
    )


def test_thresholds_by_label(pipeline: Any, chunking: Any) -> None:
    everything = pipeline(TEXTS, LABELS, threshold=0)
    least = {"music": 0.0, "refund": 1.0}
    for face in (pipeline, chunking):
        found = face(TEXTS, LABELS, threshold=least)
        for own, every in zip(found, everything, strict=True):
            kept = {each["label"] for each in every if each["score"] >= least.get(each["label"], 0.5)}
            assert {each["label"] for each in own} == kept
        mixed = face(TEXTS, LABELS, threshold=[least, 0.0, {}])
        assert mixed == [
            found[0],
            face(TEXTS[1], LABELS, threshold=0)[0],
            face(TEXTS[2], LABELS, threshold=0.5)[0],
        ]
        twice = face(TEXTS[0], ["music", "music", "weather"], threshold={"music": 0, "weather": 1})
        assert set(names(twice)[0]) == {"music"}
    assert names(pipeline(TEXTS[:2], [["music"], ["refund"]], threshold={"music": 0, "refund": 0})) == [
        ["music"], ["refund"],
    ]  # fmt: skip
    assert pipeline(TEXTS, LABELS, threshold=least, classification_type="single") == pipeline(
        TEXTS, LABELS, classification_type="single"
    )


def test_thresholds_by_label_of_a_calibrated_model() -> None:
    calibrated = fast_pipeline(reference_model(use_calibrator=True))
    every = calibrated("some text", LABELS, threshold=0)[0]
    assert "initial_score" in every[0]
    assert calibrated("some text", LABELS, threshold={"music": 0, "refund": 1, "weather": 0})[0] == [
        every[0], every[2],
    ]  # fmt: skip


def test_no_answer(pipeline: Any) -> None:
    for kind in (ZeroShotClassificationPipeline, ZeroShotClassificationWithChunkingPipeline):
        face = kind(
            pipeline.model, pipeline.tokenizer, classification_type="single", device="cpu", progress_bar=False
        )
        best = face(TEXTS, LABELS)
        middle = sorted(each[0]["score"] for each in best)[1]
        low = [each[0]["score"] < middle for each in best]
        assert sum(low) == 1
        without = face(TEXTS, LABELS, min_score=middle)
        assert without == [[] if is_low else own for own, is_low in zip(best, low, strict=True)]
        other = face(TEXTS, LABELS, min_score=middle, none_label="weather")
        for own, found, is_low in zip(best, other, low, strict=True):
            assert found == ([{**own[0], "label": "weather"}] if is_low else own)
        assert face(TEXTS, LABELS, min_score=0) == best


def test_no_answer_of_mixed_types(pipeline: Any) -> None:
    types = ["multi", "single", "multi"]
    mixed = pipeline(TEXTS, LABELS, threshold=0, classification_type=types, min_score=1)
    assert [len(each) for each in mixed] == [3, 0, 3]
    shaped = pipeline(TEXTS, LABELS, classification_type="single", min_score=1, return_hierarchical=True)
    assert shaped == pipeline(TEXTS, LABELS, classification_type="single", return_hierarchical=True)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"label_descriptions": {"sport": "x"}}, ValueError, "label_descriptions has 'sport', which is no label"),
    ({"label_descriptions": ["x"]}, TypeError, "label_descriptions must be a dict of strings, got list"),
    ({"label_descriptions": {"music": 3}}, TypeError, "label_descriptions: the description of 'music' must"),
    ({"label_descriptions": {3: "x"}}, TypeError, "a label of label_descriptions must be a string"),
    ({"labels": {"a": "b"}, "label_descriptions": {"a": "c"}}, ValueError, "has descriptions already"),
    ({"threshold": {"sport": 0.5}}, ValueError, r"threshold has 'sport', which is no label; .*'music'"),
    ({"threshold": [{"sport": 0.5}, 0.5]}, ValueError, r"threshold\[0\] has 'sport'"),
    ({"threshold": {"music": 2}}, ValueError, r"threshold\['music'\] must be between 0 and 1, got 2"),
    ({"threshold": 10**5000}, ValueError, "threshold must be between 0 and 1, got inf"),
    ({"threshold": {"music": "high"}}, TypeError, r"threshold\['music'\] must be a number"),
    ({"threshold": {3: 0.5}}, TypeError, "a label of threshold must be a string"),
    ({"none_label": "x"}, ValueError, "give min_score too"),
    ({"min_score": 0.5}, ValueError, "min_score is for single-label; multi-label has threshold"),
    ({"min_score": 2, "classification_type": "single"}, ValueError, "min_score must be between 0 and 1"),
    ({"min_score": "x", "classification_type": "single"}, TypeError, "min_score must be a number"),
    ({"label_permutations": 0}, ValueError, "label_permutations must be at least 1"),
    ({"label_permutations": "all"}, TypeError, "label_permutations must be a whole number"),
    ({"on_truncation": "raise"}, ValueError, "on_truncation must be one of warn, error, ignore"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_wrong_options(
    pipeline: Any, chunking: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"texts": TEXTS[:2], "labels": LABELS, **arguments}
    for face in (pipeline, chunking):
        if face is chunking and "classification_type" in arguments:
            continue
        with pytest.raises(error, match=message) as raised:
            face(**given)
        assert isinstance(raised.value, ArgumentError)


@pytest.mark.parametrize("labels", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_orders_are_permutations_that_depend_on_the_set_alone(labels: int, count: int) -> None:
    own = [f"label {chr(ord('a') + number)}" for number in range(labels)]
    made = orders(own, count)
    assert 1 <= len(made) <= count and len(set(made)) == len(made)
    assert all(sorted(order) == list(range(labels)) for order in made)
    said = [[own[place] for place in order] for order in made]
    for given in (own[::-1], own[1:] + own[:1]):
        assert [[given[place] for place in order] for order in orders(given, count)] == said
    if count % 2 == 0 and len(made) == count:  # every label has the same mean place
        places = np.argsort(made, axis=1).mean(axis=0)
        assert np.allclose(places, (labels - 1) / 2)


@pytest.mark.parametrize("labels", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [400, 10**400], ids=["400", "a googol to the fourth"])
def test_more_orders_than_there_are_are_all_of_them(labels: int, count: int) -> None:
    own = [chr(ord("a") + number) for number in range(labels)]
    turned = [(*range(start, labels), *range(start)) for start in range(labels)]
    assert set(orders(own, count)) == {*turned, *(order[::-1] for order in turned)}


def test_more_orders_than_there_are_cost_no_more(tiny: list[Any]) -> None:
    for face in tiny:
        found, [info] = face(TEXTS[0], LABELS, 0.0, label_permutations=10**400, return_info=True)
        assert info.passes == 2 * len(LABELS)
        assert found == face(TEXTS[0], LABELS, 0.0, label_permutations=2 * len(LABELS))


@pytest.fixture(scope="module")
def tiny() -> list[Any]:
    own = {"device": "cpu", "progress_bar": False}
    model, tokenizer = reference_model(), byte_tokenizer()
    faces = ZeroShotClassificationPipeline, ZeroShotClassificationWithChunkingPipeline
    return [face(model, tokenizer, **own) for face in faces]


@pytest.mark.parametrize("count", [2, 3, 50])
def test_scores_do_not_depend_on_the_order_of_labels(tiny: list[Any], count: int) -> None:
    pipeline, chunking = tiny

    def by_label(order: tuple[str, ...], face: Any, **options: Any) -> list[dict[str, float]]:
        found = face(TEXTS, list(order), label_permutations=count, return_hierarchical=True, **options)
        assert all(list(each) == list(order) for each in found)  # the caller's order
        return [dict(sorted(each.items())) for each in found]

    labels = [*LABELS, "cooking"]
    expected = by_label(tuple(labels), pipeline)
    assert all(by_label(order, pipeline) == expected for order in permutations(labels))
    one, two = tuple(labels), tuple(labels[::-1])
    assert by_label(one, chunking) == by_label(two, chunking)
    assert by_label(one, pipeline, labels_per_pass=2) == by_label(two, pipeline, labels_per_pass=2)
    single = [by_label(own, pipeline, classification_type="single") for own in (one, two)]
    assert_same_results(*single, within=1e-6)  # the softmax adds up in the caller's order
    assert by_label(one, pipeline) != [
        dict(sorted(each.items())) for each in pipeline(TEXTS, labels, return_hierarchical=True)
    ]


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"labels_per_pass": 2}, {"chunk_tokens": 30}], ids=str)
def test_labels_that_read_the_same_have_the_same_score(
    tiny: list[Any], count: int, options: dict[str, Any]
) -> None:
    """They differ in their names alone, so that no order of them may count."""
    descriptions = {"refund": "money", "credit": "money", "payout": "money", "weather": "rain and sun"}
    face = tiny["chunk_tokens" in options]

    def by_label(order: tuple[str, ...]) -> list[dict[str, float]]:
        own = {name: descriptions[name] for name in order}
        found = face(TEXTS, own, label_permutations=count, return_hierarchical=True, **options)
        return [dict(sorted(each.items())) for each in found]

    expected = by_label(tuple(descriptions))
    assert all(each["refund"] == each["credit"] == each["payout"] != each["weather"] for each in expected)
    assert all(by_label(order) == expected for order in permutations(descriptions))


def test_the_mean_is_that_of_the_logits(pipeline: Any) -> None:
    made = orders(LABELS, 4)
    logits = []
    for order in made:
        [found] = pipeline.get_embeddings(TEXTS[0], [LABELS[place] for place in order])
        logits.append(found["logits"][np.argsort(order)])
    expected = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
    found, [info] = pipeline(TEXTS[0], LABELS, threshold=0, label_permutations=4, return_info=True)
    assert np.abs(np.array(scores(found)[0]) - expected).max() < 1e-5
    assert (
        info.passes == 4 == len(made)
        and info.tokens == 4 * pipeline(TEXTS[0], LABELS, return_info=True)[1][0].tokens
    )
    assert_same_results(pipeline(TEXTS, LABELS, label_permutations=1), pipeline(TEXTS, LABELS))


@pytest.fixture
def small() -> ZeroShotClassificationPipeline:
    return fast_pipeline(reference_model(), byte_tokenizer(), max_length=64)


def test_a_cut_text_is_an_error_where_that_is_asked(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["short", "x" * 100, "y", "z" * 80]
    message = r"2 of 4 prompts .* 64 tokens: text would be cut, by at most 43 tokens, in text 1, 3 \(counted"
    for name in ("score", "embed"):
        monkeypatch.setattr(LoadedNetwork, name, None)  # nothing runs
    with pytest.raises(ValueError, match=message):
        small(texts, ["a", "b"], on_truncation="error")
    with pytest.raises(ValueError, match=r"in text 11, 13 \(counted"):
        small(texts, ["a", "b"], on_truncation="error", first_text=10)
    with pytest.raises(ValueError, match=r"in text 1, 3 \(counted"):
        small(texts, ["a", "b"], on_truncation="error", labels_per_pass=1, label_permutations=2)
    small.on_truncation = "error"
    for run in (small, small.get_embeddings):
        with pytest.raises(ValueError, match=r"in text 1, 3 \(counted"):
            run(texts, ["a", "b"])


def test_where_nothing_is_cut_an_error_changes_nothing(small: Any) -> None:
    texts = [f"text {number}" for number in range(40)]
    assert small(texts, ["a", "b"], on_truncation="error") == small(texts, ["a", "b"])


def test_warnings_of_cut_texts_do_not_repeat(
    small: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(truncation.time, "monotonic", lambda: now[0])
    texts = ["x" * 100] * 15
    with caplog.at_level(logging.WARNING, logger="gliclass_fast"):
        small(texts, ["a", "b"], on_truncation="ignore")
        assert not caplog.records
        for _ in range(3):
            small(texts, ["a", "b"])
        assert len(caplog.records) == 1
        assert "in text 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 5 more (counted from 0)" in caplog.text
        now[0] += 59
        small("x", ["a", "b"])
        small(texts, ["a", "b"])
        assert len(caplog.records) == 1
        now[0] += 2
        small(texts[:1], ["a", "b"])
    assert len(caplog.records) == 2 and "45 more prompts were cut since the last one" in caplog.text


@pytest.mark.parametrize(
    ("positions", "advice"),
    [
        (64, "Take the chunking pipeline with"),
        (500, r"Raise max_length \(this model reads up to 499\), or take the chunking pipeline"),
    ],
)
def test_the_advice_is_one_that_helps(positions: int, advice: str) -> None:
    model = reference_model("roberta", {"max_position_embeddings": positions})
    pipeline = fast_pipeline(model, max_length=64)
    with pytest.raises(ValueError, match=advice):
        pipeline("x" * 100, ["a"], on_truncation="error")


def test_labels_that_do_not_fit_name_the_remedy_of_every_pipeline(pipeline: Any, chunking: Any) -> None:
    many = [f"topic number {number}" for number in range(400)]
    remedies = r"\(labels_per_pass='auto'; in the chunking pipeline a smaller labels_chunk_size\)"
    for call in (pipeline, partial(chunking, labels_chunk_size=400)):
        with pytest.raises(ArgumentError, match=remedies):
            call("x", many)
    assert chunking("x", many, labels_chunk_size=40) and pipeline("x", many, labels_per_pass="auto")
