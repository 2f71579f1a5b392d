"""Tokenizers that do more than their backend are refused; changes in place count once they are set again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from gliclass_fast import ArgumentError, ZeroShotClassificationWithChunkingPipeline
from tests import families
from tests.accuracy import assert_same_results
from tests.tiny import (
    MARKERS,
    byte_tokenizer,
    fast_pipeline,
    gliznet_tokenizer,
    new_byte_tokenizer,
    reference_model,
    reference_pipeline,
)

TEXTS, LABELS = ["Sport is GOOD", "Héllo"], ["A", "bB", "c"]


class Shouting(PreTrainedTokenizerFast):  # type: ignore[misc]
    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        return super().__call__([each.upper() for each in text], *args, **kwargs)


class Encoding(PreTrainedTokenizerFast):  # type: ignore[misc]
    def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._encode_plus([each[:9] for each in text], *args, **kwargs)


class Wrapper:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)


def of_class(kind: type) -> Any:
    tokenizer = new_byte_tokenizer()
    tokenizer.__class__ = kind
    return tokenizer


def patched() -> Any:
    tokenizer = new_byte_tokenizer()
    tokenizer._encode_plus = lambda *given, **named: {}
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "named"),
    [
        (of_class(Shouting), r"Shouting\.__call__"),
        (of_class(Encoding), r"Encoding\._encode_plus"),
        (Wrapper(new_byte_tokenizer()), r"Wrapper\.__call__"),
        (patched(), r"_encode_plus"),
    ],
)
def test_a_method_of_its_own_is_named(tokenizer: Any, named: str) -> None:
    message = rf"tokenizer: .*{named} is no method of transformers.*backend_tokenizer"
    with pytest.raises(ArgumentError, match=message):
        fast_pipeline(reference_model(), tokenizer)
    pipeline = fast_pipeline(reference_model())
    with pytest.raises(ArgumentError, match=message):
        pipeline.tokenizer = tokenizer


def test_classes_that_only_add_names_are_taken() -> None:
    named = of_class(type("Named", (PreTrainedTokenizerFast,), {"hint": lambda self: 1}))
    model = reference_model()
    assert_same_results(scores(fast_pipeline(model, named)), scores(reference_pipeline(model)))


def scores(pipeline: Any) -> Any:
    return [pipeline(text, LABELS, threshold=0.0)[0] for text in TEXTS]


def test_a_tokenizer_that_is_set_again_is_read_anew() -> None:
    model, tokenizer = reference_model(), new_byte_tokenizer()
    fast, reference = fast_pipeline(model, tokenizer), reference_pipeline(model)
    reference.pipe.tokenizer = tokenizer
    before = scores(fast)
    backend = tokenizer.backend_tokenizer
    pattern = [normalizers.Replace(letter, letter.lower()) for letter in "GODH"]
    backend.normalizer = normalizers.Sequence(pattern)
    marks = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    template = "[CLS] [CLS] $A [SEP]"
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    assert scores(fast) == before
    fast.tokenizer = fast.tokenizer
    assert scores(fast) != before
    assert_same_results(scores(fast), scores(reference))
    assert set(MARKERS) <= set(tokenizer.get_vocab())


@pytest.mark.parametrize("kind", [None, "bi-encoder"])
@pytest.mark.parametrize("limit", [40, int(1e30)])
def test_no_window_is_that_of_the_tokenizer(kind: str | None, limit: int) -> None:
    model = reference_model("bert") if kind is None else families.reference(kind)
    tokenizer = new_byte_tokenizer()
    tokenizer.model_max_length = limit
    fast = fast_pipeline(model, tokenizer, max_length=None, on_truncation="ignore")
    assert fast.max_length is None
    text = "a word and another " * 9
    [found], [info] = fast(text, LABELS, threshold=0.0, return_info=True)
    assert (info.tokens_cut > 0) == (limit == 40)
    reference = reference_pipeline(model)
    reference.pipe.tokenizer, reference.pipe.max_length = tokenizer, None
    assert_same_results([found], reference(text, LABELS, threshold=0.0))
    fast.max_length = 30
    fast.max_length = None
    assert_same_results(fast(text, LABELS, threshold=0.0), [found])


def test_single_label_texts_need_no_threshold() -> None:
    model = reference_model()
    fast, reference = fast_pipeline(model), reference_pipeline(model)
    single: Any = {"classification_type": "single-label"}
    expected = [reference(text, LABELS, threshold=None, **single)[0] for text in TEXTS]
    assert_same_results(fast(TEXTS, LABELS, threshold=None, **single), expected)
    assert_same_results(fast(TEXTS, LABELS, threshold=[None, 0.3], **single), expected)
    chunking: Any = ZeroShotClassificationWithChunkingPipeline(
        model, byte_tokenizer(), device="cpu", progress_bar=False, **single
    )
    best, _ = chunking.process_single_text(TEXTS[0], LABELS, None)
    assert_same_results([best], expected[:1])
    kinds = ["single-label", "multi-label"]
    found = fast(TEXTS, LABELS, threshold=[None, 0.0], classification_type=kinds)
    assert_same_results(found[:1], expected[:1])
    for wrong in (None, [None, None]):
        with pytest.raises(ArgumentError, match="threshold must be a number, got NoneType for text 1"):
            fast(TEXTS, LABELS, threshold=wrong, classification_type=kinds)
    with pytest.raises(ArgumentError, match="threshold must be a number, got NoneType"):
        fast(TEXTS, LABELS, threshold=None)


def hiding_tokenizer(special: Sequence[str]) -> Any:
    """Returns a tokenizer that puts a character before every piece of text, as Llama's did.

    It hides markers that are no special tokens.
    """
    pieces = dict.fromkeys(["[PAD]", "[UNK]", "▁", *map(chr, range(33, 127))])
    model = models.BPE({piece: index for index, piece in enumerate(pieces)}, [], unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    for marker in MARKERS:
        fast.add_tokens([marker], special_tokens=marker in special)
    return fast


def model_of(tokenizer: Any) -> Any:
    names = ("class_token_index", "text_token_index", "example_token_index")
    return reference_model("bert", **dict(zip(names, tokenizer.convert_tokens_to_ids(MARKERS), strict=False)))


@pytest.mark.parametrize("special", [MARKERS, MARKERS[:2]], ids=["all", "no example"])
def test_a_marker_of_examples_that_is_not_found_is_text(special: Sequence[str]) -> None:
    tokenizer = hiding_tokenizer(special)
    reference = model_of(tokenizer)
    given: dict[str, Any] = {"threshold": 0.0, "examples": [{"text": "abc", "labels": ["A"]}]}
    expected = reference_pipeline(reference, tokenizer)(TEXTS[0], LABELS, **given)
    assert_same_results(fast_pipeline(reference, tokenizer)(TEXTS[0], LABELS, **given), expected)


def test_markers_have_to_be_found_between_texts() -> None:
    tokenizer = hiding_tokenizer(MARKERS[1:])
    with pytest.raises(ValueError, match="marker token, of class_token_index=97, between other"):
        fast_pipeline(model_of(tokenizer), tokenizer)(TEXTS[0], LABELS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens_per_span": 0}, "max_tokens_per_span must be at least 1, got 0"),
        ({"max_tokens_per_span": "3"}, "max_tokens_per_span must be a whole number, got str"),
        ({"min_text_tokens": -1}, "min_text_tokens must be at least 0, got -1"),
        ({"min_label_tokens": 1.5}, "min_label_tokens must be a whole number, got float"),
    ],
)
def test_sizes_of_gliznet_s_tokenizer(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        gliznet_tokenizer(**settings)


PAIRS = [("ab", ["c", "de"]), ("a", ["b"])]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no examples: give at least one, a pair of a text and its labels"),
        (5, r"examples must be a list of \(text, labels\) pairs, got int"),
        ("text", r"examples must be a list of \(text, labels\) pairs, got str"),
        ({"a": ["b"]}, r"examples must be a list of \(text, labels\) pairs, got dict"),
        (("text", ["a"]), r"examples\[0\] must be a pair of a text and its labels, got str"),
        ([*PAIRS, ("a", ["b"], 3)], r"examples\[2\] must be a pair of a text and its labels, got 3 values"),
        ([*PAIRS, (None, ["a"])], r"texts\[2\] must be a string, got NoneType"),
        ([("\ud800", ["a"])], r"texts\[0\] is not valid text: surrogates not allowed at position 0"),
        ([("text", "abc")], r"labels \(for text 0\) must be a list of strings, got str"),
        ([*PAIRS, ("text", ["a", 3])], r"labels \(for text 2\)\[1\] must be a string, got int"),
        ([("text", {"a", "b"})], r"labels \(for text 0\) is a set"),
    ],
)
def test_wrong_examples_for_gliznet_s_tokenizer(examples: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        gliznet_tokenizer()(examples)


def test_other_arguments_of_gliznet_s_tokenizer(tmp_path: Path) -> None:
    tokens = gliznet_tokenizer()
    tokens.save_pretrained(tmp_path)
    for value in ("np", "tf", "", 5, np.array(["pt"])):
        with pytest.raises(ArgumentError, match="return_tensors must be 'pt' or None, got"):
            tokens(PAIRS, return_tensors=value)
        with pytest.raises(ArgumentError, match="return_tensors is an option of a call"):
            type(tokens)(tmp_path, return_tensors=value)
    for texts, labels, message in (
        (["a", "c"], [["b"]], "text_labels has one list per text, so it needs 2; got 1"),
        (["a"], "b", "text_labels must be a list of labels per text, got str"),
        (5, ["b"], "texts must be a string or a list of strings, got int"),
        ("a", [None], r"labels \(for text 0\)\[0\] must be a string"),
    ):
        with pytest.raises(ArgumentError, match=message):
            tokens.tokenize(texts, labels)
    for lab_token, message in ((5, "lab_token must be a string, got int"), ("", "lab_token is empty")):
        with pytest.raises(ArgumentError, match=message):
            type(tokens)(tokens.tokenizer, lab_token)


def test_gliznet_s_tokenizer_takes_what_can_be_read_once() -> None:
    tokens = gliznet_tokenizer()
    expected = tokens(PAIRS, return_tensors=None)
    assert tokens((pair for pair in PAIRS), return_tensors=None) == expected
    assert tokens(((text, iter(own)) for text, own in PAIRS), return_tensors=None) == expected
    texts, labels = zip(*PAIRS, strict=True)
    assert tokens.tokenize(iter(texts), iter(labels), return_tensors=None) == expected
