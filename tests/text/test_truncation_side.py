"""A tokenizer that cuts on the left keeps the end of a text, as in the reference; labels stay whole."""

from __future__ import annotations

from typing import Any

import pytest

from tests import families
from tests.accuracy import assert_same_results
from tests.sentences import SHORT_LABELS
from tests.tiny import SHOT, byte_tokenizer, fast_pipeline, reference_model, reference_pipeline

LABELS = SHORT_LABELS[0][:2]
TEXT = "start " * 40 + "END" * 20
MODELS: dict[str, Any] = {
    "text first": lambda: reference_model("bert", prompt_first=False, pooling_strategy="avg"),
    **{
        kind: lambda kind=kind: families.reference(kind)
        for kind in ("bi-encoder", "decoder-kv", "encoder-decoder, BART")
    },
}


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(byte_tokenizer(), "truncation_side", "left")  # all tests share it
    return byte_tokenizer()


@pytest.mark.parametrize("name", MODELS)
def test_the_end_of_a_text_is_kept(name: str, tokenizer: Any) -> None:
    model = MODELS[name]()
    expected = reference_pipeline(model, tokenizer, max_length=60)(TEXT, LABELS, threshold=0.0)
    ours = fast_pipeline(model, tokenizer, max_length=60, on_truncation="ignore")
    assert_same_results(ours(TEXT, LABELS, threshold=0.0), expected)


@pytest.mark.parametrize("window", [70, 110, 150])
def test_prompts_and_examples_in_front_and_behind(window: int, tokenizer: Any) -> None:
    """Where the window holds the labels and what follows them, the reference cuts no more than the front."""
    model = reference_model("bert", prompt_first=False, pooling_strategy="avg")
    ours = fast_pipeline(model, tokenizer, max_length=window, on_truncation="ignore")
    theirs = reference_pipeline(model, tokenizer, max_length=window)
    call = {"threshold": 0.0, "prompt": "Task: "}
    assert_same_results(ours(TEXT, LABELS, **call), theirs(TEXT, LABELS, **call))
    call |= SHOT
    found, [info] = ours(TEXT, LABELS, **call, return_info=True)
    assert_same_results(found, theirs(TEXT, LABELS, **call)[:1])
    assert info.tokens == window and info.tokens_cut > 0 and len(found[0]) == len(LABELS)


def test_the_side_counts_from_the_next_call(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = fast_pipeline(reference_model(), tokenizer, max_length=60, on_truncation="ignore")
    left = pipeline(TEXT, LABELS, threshold=0.0)
    monkeypatch.setattr(tokenizer, "truncation_side", "right")
    assert pipeline(TEXT, LABELS, threshold=0.0) != left
    assert_same_results(pipeline(TEXT, LABELS, threshold=0.0), pipeline(TEXT[:250], LABELS, threshold=0.0))


def test_labels_first_keep_every_label_and_the_end(tokenizer: Any) -> None:
    pipeline = fast_pipeline(reference_model(), tokenizer, max_length=60, on_truncation="ignore")
    found, info = pipeline(TEXT, LABELS, threshold=0.0, return_info=True)
    alone = pipeline(TEXT[info[0].tokens_cut :], LABELS, threshold=0.0)  # a byte is a token
    assert info[0].tokens_cut > 0
    assert_same_results(found, alone)
