"""Chunks of tokens: they fit, they overlap, and together they are the whole text."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import gliclass
import numpy as np
import pytest
from tokenizers import processors

import gliclass_fast
from gliclass_fast import ArgumentError, ZeroShotClassificationWithChunkingPipeline, demo
from gliclass_fast.text.chunks import by_tokens
from tests.accuracy import assert_same_results
from tests.sentences import LABELS as LABEL_LISTS
from tests.sentences import TEXTS
from tests.tiny import byte_tokenizer, label_tower, new_byte_tokenizer, reference_model

PROSE = "The rover found organic molecules in a Martian crater. Later we played songs, and cooked. " * 12
UNBROKEN = "汉字テスト" * 60 + "🚄" * 30 + "x" * 300
# every character once, so that a piece tells where it stood
ONCE = "".join(map(chr, [*range(0x4E00, 0x4E80), *range(0x1F600, 0x1F640), *range(0x21, 0x7F)]))
LABELS = ["music", "space exploration", "cooking", "banking and finance", "weather"]
SHOTS = [{"text": "A new album", "labels": ["music"]}]


def tokens_of(text: str) -> list[int]:
    """One token per UTF-8 byte: where the character of every byte starts."""
    return [place for place, character in enumerate(text) for _ in character.encode()]


@pytest.mark.parametrize("overlap", [0, 1, 5, 30])
@pytest.mark.parametrize("size", [1, 2, 7, 31, 64, 5000])
def test_pieces_fit_and_cover_the_text(size: int, overlap: int) -> None:
    def cut(text: str) -> list[str]:
        pieces = by_tokens(text, tokens_of(text), size, overlap, lambda piece: len(tokens_of(piece)) - size)
        assert all(len(tokens_of(piece)) <= size or len(piece) == 1 for piece in pieces)
        assert all(pieces) or not text
        return pieces

    for text in ("", "a", " \n", PROSE, UNBROKEN, PROSE + UNBROKEN):
        pieces = cut(text)
        if overlap == 0:
            assert "".join(pieces) == text
        if size == 31 and overlap != 1 and text == PROSE:  # it cuts between words
            assert {word for piece in pieces for word in piece.split()} == set(PROSE.split())
    ends = [0]
    for piece in cut(ONCE):
        start = ONCE.index(piece)
        assert start <= ends[-1] < start + len(piece)  # no gap, and something new
        ends.append(start + len(piece))
    assert ends[-1] == len(ONCE)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_tokens_may_start_behind_the_text(size: int) -> None:
    """White space may be a token whose first character is the next one's, or that of the end."""
    for text in ("ab ", "é é ", "  a\n ", " "):
        starts = [place + character.isspace() for place, character in enumerate(text)]
        pieces = by_tokens(text, starts, size, 0, lambda piece: len(piece) - size)
        assert "".join(pieces) == text and all(1 <= len(piece) <= max(size, 2) for piece in pieces)


@pytest.mark.parametrize(
    ("text", "size"), [("ab ", 2), ("é é ", 2), (" and word  word   word  word and ", 32)]
)
def test_a_tokenizer_that_trims_its_places(text: str, size: int) -> None:
    tokenizer = new_byte_tokenizer()
    trimming = processors.RobertaProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.backend_tokenizer.post_processor = trimming
    ours = pipeline(reference_model("roberta"), tokenizer, chunk_tokens=size, overlap_tokens=0)
    [scores], [info] = ours(text, ["a"], threshold=0.0, return_info=True)
    assert len(scores) == 1 and info.passes >= 1
    starts = ours.engine.reader.token_starts(text)
    assert starts == sorted(starts) and starts[-1] < len(text)


def test_neighbours_share_about_the_overlap() -> None:
    text = "".join(f"w{number:03d} " for number in range(100))
    pieces = by_tokens(text, tokens_of(text), 50, 20, lambda piece: len(piece) - 50)
    assert len(pieces) > 10
    for one, two in pairwise(pieces):
        shared = set(one.split()) & set(two.split())
        assert len(shared) == 4 and two.startswith(min(shared))  # 20 tokens


def pipeline(model: Any = demo.PATH, tokenizer: Any = None, **settings: Any) -> Any:
    return ZeroShotClassificationWithChunkingPipeline(
        model, tokenizer, device="cpu", progress_bar=False, **{"on_truncation": "error", **settings}
    )


FAMILIES: dict[str, Any] = {
    "labels first": lambda: reference_model(),
    "text first": lambda: reference_model(prompt_first=False),
    "bi-encoder": lambda: reference_model("bert", architecture_type="bi-encoder", **label_tower()),
    "encoder-decoder": lambda: reference_model("t5", architecture_type="encoder-decoder"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_automatic_chunks_are_never_cut(family: str) -> None:
    """`on_truncation="error"` would raise."""
    ours = pipeline(FAMILIES[family](), byte_tokenizer(), max_length=160, labels_chunk_size=3)
    for options in ({}, {"prompt": "Task: "}, {"examples": SHOTS if family != "bi-encoder" else None}):
        found, infos = ours(
            [PROSE, "short", UNBROKEN], LABELS, 0.0, chunk_tokens="auto", return_info=True, **options
        )
        assert [len(each) for each in found] == [5, 5, 5]
        assert infos[1].passes == 2 and infos[0].passes > 10 and not any(each.tokens_cut for each in infos)
    if family == "labels first":
        with pytest.raises(ValueError, match="text would be cut"):
            ours(PROSE, LABELS)


def test_a_real_tokenizer_and_every_option() -> None:
    text = PROSE[:500]
    ours = pipeline(max_length=96, chunk_tokens="auto", overlap_tokens=8)
    found, [info] = ours(text, LABELS, 0.3, return_info=True)
    assert [each["label"] for each in found[0]][:1] == ["music"] and info.tokens_cut == 0
    assert ours("Play songs.", LABELS)[0][0]["label"] == "music"
    few, many = (
        ours(text, LABELS, return_info=True, chunk_tokens=size, overlap_tokens=0)[1][0] for size in (50, 10)
    )
    assert few.passes < info.passes * 2 and many.passes > 4 * few.passes
    assert ours.chunk_tokens == "auto"  # what a call gives counts for the call
    by_characters = pipeline(ours.model, ours.tokenizer, on_truncation="ignore")
    found, infos = by_characters([PROSE, "short"], LABELS, return_info=True, text_chunk_size=400)
    assert (
        infos[0].passes == len(range(0, len(PROSE) - 256, 400 - 256))
        and infos[1].passes == 1
        and len(found) == 2
    )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"chunk_tokens": 0}, ValueError, "chunk_tokens must be at least 1"),
        ({"chunk_tokens": "all"}, TypeError, "chunk_tokens must be a whole number, got str"),
        ({"overlap_tokens": 5}, ValueError, "give chunk_tokens too"),
        ({"chunk_tokens": 5, "overlap_tokens": 5}, ValueError, "overlap_tokens must be below chunk_tokens"),
        ({"chunk_tokens": 5, "overlap_tokens": -1}, ValueError, "overlap_tokens must be at least 0"),
        ({"chunk_tokens": 5, "text_chunk_size": 5}, ValueError, "not both"),
        ({"chunk_tokens": 5, "text_chunk_overlap": 0}, ValueError, "text_chunk_overlap, or .* not both"),
        ({"overlap_tokens": 1, "text_chunk_overlap": 0}, ValueError, "text_chunk_overlap, or .* not both"),
        ({"chunk_tokens": np.array([1, 2]), "text_chunk_size": 5}, ValueError, "not both"),
        ({"chunk_tokens": "auto", "prompt": "x" * 50}, ValueError, "finds no room for text"),
    ],
)
def test_wrong_sizes(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    ours = pipeline(reference_model(), byte_tokenizer(), max_length=40)
    with pytest.raises(error, match=message) as raised:
        ours(PROSE, ["a"], **settings)
    assert isinstance(raised.value, ArgumentError)
    assert (ours.text_chunk_size, ours.text_chunk_overlap) == (8192, 256)


@pytest.mark.parametrize("size", [5, "auto"])
def test_an_overlap_of_characters_goes_with_chunks_of_characters(size: Any) -> None:
    ours = pipeline(reference_model(), byte_tokenizer(), max_length=40, chunk_tokens=size)
    with pytest.raises(ArgumentError, match="text_chunk_overlap is for chunks of characters"):
        ours(PROSE, ["a"], text_chunk_overlap=7)
    assert ours.text_chunk_overlap == 256
    _, [info] = ours("x" * 30, ["a"], text_chunk_size=10, text_chunk_overlap=5, return_info=True)
    assert info.passes == 5 and ours.text_chunk_overlap == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": None}, "text must be a string"),
        ({"chunk_size": "5"}, "chunk_size must be a whole number"),
        ({"chunk_size": np.array([1, 2])}, "chunk_size must be a whole number"),
        ({"chunk_size": -1}, "chunk_size must be at least 0"),
        ({"overlap": 1.5}, "overlap must be a whole number"),
        ({"chunk_size": 3, "overlap": 3}, "cannot overlap by 3"),
    ],
)
def test_wrong_arguments_of_a_cut(arguments: dict[str, Any], message: str) -> None:
    ours = pipeline(reference_model(), byte_tokenizer())
    with pytest.raises(ArgumentError, match=message):
        ours.chunk_text(**{"text": "abcdefgh", **arguments})


def test_sizes_of_a_call_count_for_it_and_wrong_ones_change_nothing() -> None:
    pipeline = ZeroShotClassificationWithChunkingPipeline(
        reference_model(), byte_tokenizer(), device="cpu", progress_bar=False, max_length=64, chunk_tokens=4
    )
    text, labels = "abc def ghi jkl", ["x", "y"]
    with pytest.raises(ValueError, match="labels_chunk_size must be at least 1"):
        pipeline(text, labels, labels_chunk_size=0)
    with pytest.raises(ValueError, match="text_chunk_overlap must be at least 0"):
        pipeline(text, labels, labels_chunk_size=1, text_chunk_size=3, text_chunk_overlap=-1)
    for own in ({"chunk_tokens": 4}, {"overlap_tokens": 1}):
        with pytest.raises(ValueError, match="not both"):
            pipeline(text, labels, labels_chunk_size=1, text_chunk_size=3, **own)
    given: dict[str, Any] = {"labels_chunk_size": 1, "text_chunk_size": 3, "text_chunk_overlap": 1}
    refused: list[dict[str, Any]] = [
        {"overlap_tokens": -1}, {"label_permutations": 0}, {"on_truncation": "?"}, {"threshold": "?"},
        {"texts": [5]}, {"labels": [5]}, {"text_chunk_overlap": 3},
        {"labels": ["x" * 90], "on_truncation": "error"},
    ]  # fmt: skip
    for wrong in refused:
        with pytest.raises((TypeError, ValueError)):
            pipeline(**{"texts": text, "labels": labels, **given, **wrong})
    kept = (pipeline.labels_chunk_size, pipeline.text_chunk_size, pipeline.text_chunk_overlap)
    assert kept == (8, 8192, 256)
    pipeline(text, labels, labels_chunk_size=1)
    assert pipeline.labels_chunk_size == 1
    pipeline.labels_chunk_size = 8
    passes = [
        pipeline(text, labels, return_info=True, **sizes)[1][0].passes
        for sizes in ({}, {"text_chunk_size": 100}, {})
    ]
    assert passes[0] == passes[2] > passes[1] == 1
    names = ["a" * 15, "z", "b" * 15, "y"]
    _, [info] = pipeline(
        PROSE, names, chunk_tokens="auto", labels_chunk_size=2, label_permutations=2, return_info=True
    )
    assert info.tokens_cut == 0


@pytest.mark.parametrize("kind", ["multi-label", "single-label"])
def test_the_parts_of_a_call_give_what_the_reference_gives(kind: str) -> None:
    model = reference_model(scorer_type="mlp")
    settings: Any = {"device": "cpu", "progress_bar": False, "text_chunk_size": 40, "text_chunk_overlap": 5}
    settings |= {"classification_type": kind}
    theirs = gliclass.ZeroShotClassificationWithChunkingPipeline(model, byte_tokenizer(), **settings)
    ours = ZeroShotClassificationWithChunkingPipeline(model, byte_tokenizer(), **settings)
    for text in TEXTS:
        expected = theirs.process_single_text(text, LABEL_LISTS[2], 0.3, prompt="Classify: ")
        found = ours.process_single_text(text, LABEL_LISTS[2], 0.3, prompt="Classify: ")
        for mine, other in zip(found, expected, strict=True):
            assert_same_results(mine, other)
    scores = [{"a": 0.2, "b": 0.4}, {"a": 0.5, "b": 0.1}]
    labels = ["a", "b", "c"]
    assert ours.aggregate_chunk_scores(scores, labels) == theirs.aggregate_chunk_scores(scores, labels)


@pytest.mark.parametrize("kind", ["multi-label", "single-label"])
def test_a_label_that_is_given_twice(kind: str) -> None:
    """Its last score counts in every chunk, and where there is only one."""
    model = reference_model(scorer_type="mlp")
    settings: Any = {"device": "cpu", "progress_bar": False, "text_chunk_size": 20, "text_chunk_overlap": 5}
    theirs, ours = (
        each.ZeroShotClassificationWithChunkingPipeline(
            model, byte_tokenizer(), **settings, classification_type=kind
        )
        for each in (gliclass, gliclass_fast)
    )
    for text, group in product(("one chunk", "a text of two chunks, not one"), (2, 8)):
        theirs.labels_chunk_size = ours.labels_chunk_size = group
        expected = theirs.process_single_text(text, ["a", "b", "a"], 0.3)
        for mine, other in zip(ours.process_single_text(text, ["a", "b", "a"], 0.3), expected, strict=True):
            assert_same_results(mine, other)
