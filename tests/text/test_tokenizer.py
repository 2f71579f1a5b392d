"""Spliced token ids are those of the stock tokenizer for the joined string, in four tokenizer families."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, DebertaV2Tokenizer, PreTrainedTokenizerFast

from gliclass_fast import demo
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.configuration import read_config
from gliclass_fast.text.prompts import Markers, Request
from gliclass_fast.text.readers import build_prompt
from gliclass_fast.text.tokenizer import PromptTokenizer
from tests.tiny import MARKERS, byte_tokenizer, reference_model

STRINGS = 1200
SCRIPTS = [
    "the quick brown fox", "naïve café déjà", "İstanbul ıssız", "Ελλάδα ώρα", "Привет мир", "שלום עולם",
    "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好世界", "こんにちは世界", "안녕하세요 세계",
    "ﬁ ﬂ ½ ①", "e\u0301 n\u0303", "🙂👍🏽👨‍👩‍👧", "🚀🇳🇴", "a\u00a0b", "\u200bzero\u200dwidth", "x\u2028y",
    "\ufeffbom", "²³¹ № ™", "Ａｂｃ", "o̸",
]  # fmt: skip
SPACES = [" ", "  ", "   ", "\n", "\t", "\r\n", " \n ", "\u3000", "", ""]
PIECES = [
    "don't", "U.S.", "3.14", "#tag", "@user", "http://a.b/c?d=e", "[MASK]", "[SEP]", "<s>", "</s>", "<pad>",
    "<", ">", "<<", ">>", "<<LABEL", "LABEL>>", "|", "_", "▁", "##s", "{}", "\\", "'", '"', "--", "...", "ÿ",
    "\x00", "\x7f",
]  # fmt: skip
ANY = [*range(32, 0xD800), *range(0xE000, 0x11000)]  # code points that are no surrogates


def awkward_string(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(0, 7)):
        source = rng.choice([SCRIPTS, SCRIPTS, PIECES])
        parts += [rng.choice(source), rng.choice(SPACES)]
    if rng.random() < 0.2:
        parts.append("".join(chr(rng.choice(ANY)) for _ in range(4)))
    return rng.choice(SPACES) + "".join(parts)


def wordpiece(normalized: bool) -> Any:
    archive = Path(str(find_spec("all_minilm_l6_v2").origin)).parent / "model.zip"  # type: ignore[union-attr]
    with zipfile.ZipFile(archive) as opened:
        backend = Tokenizer.from_str(opened.read("tokenizer.json").decode())
    return _fast(backend, normalized, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")


def unigram(normalized: bool) -> Any:
    package = Path(str(find_spec("semantra_multilingual").origin)).parent  # type: ignore[union-attr]
    backend = Tokenizer.from_file(str(package / "assets/multilingual-e5-small/tokenizer.json"))
    return _fast(backend, normalized, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def _fast(backend: Tokenizer, normalized: bool, **specials: str) -> Any:
    backend.no_truncation()
    backend.no_padding()
    return _marked(PreTrainedTokenizerFast(tokenizer_object=backend, **specials), normalized)


def deberta(normalized: bool) -> Any:
    """Makes transformers' DeBERTa class, with its own normaliser and Metaspace, over single characters."""
    characters = sorted({c for text in SCRIPTS for c in text} | {chr(c) for c in range(33, 127)} | {"▁"})
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    pieces = [*((s, 0.0) for s in specials), ("▁the", -2.0), ("▁qu", -3.0), *((c, -8.0) for c in characters)]
    return _marked(DebertaV2Tokenizer(vocab=pieces, unk_id=3), normalized)


def byte_level(normalized: bool) -> Any:
    return byte_tokenizer()


def _marked(tokenizer: Any, normalized: bool) -> Any:
    tokenizer.add_tokens(
        [AddedToken(marker, normalized=normalized, special=not normalized) for marker in MARKERS]
    )
    return tokenizer


FAMILIES: dict[str, Callable[[bool], Any]] = {
    "wordpiece": wordpiece,
    "unigram": unigram,
    "deberta": deberta,
    "byte-level": byte_level,
}


def config_for(tokenizer: Any, prompt_first: bool) -> ModelConfig:
    ids = tokenizer.convert_tokens_to_ids(MARKERS)
    names = ("class_token_index", "text_token_index", "example_token_index")
    return replace(
        read_config(reference_model().config.to_dict()),
        prompt_first=prompt_first,
        **dict(zip(names, ids, strict=True)),
    )


@lru_cache  # some take seconds to build
def stock_tokenizer(family: str, normalized: bool) -> Any:
    return FAMILIES[family](normalized)


@lru_cache
def both(family: str, normalized: bool = False, prompt_first: bool = True) -> tuple[Any, PromptTokenizer]:
    """Gives the stock tokenizer of a family, and ours over it."""
    stock = stock_tokenizer(family, normalized)
    return stock, PromptTokenizer(stock, config_for(stock, prompt_first))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt_first", [True, False])
def test_ids_equal_the_joined_string(family: str, prompt_first: bool) -> None:
    """With special marker tokens, as in stock checkpoints, all ids and the markers' places are right."""
    stock, ours = both(family, prompt_first=prompt_first)
    rng = random.Random(0)
    requests = []
    for _ in range(STRINGS // 2):
        labels = tuple(awkward_string(rng) for _ in range(rng.randint(1, 4)))
        shots = [{"text": awkward_string(rng), "labels": ["x", "y"]}] if rng.random() < 0.2 else []
        task = awkward_string(rng) if rng.random() < 0.2 else ""
        requests.append(Request(awkward_string(rng), labels, task, shots))
    encoded = ours.encode([build_prompt(r, ours.markers, prompt_first) for r in requests], 1 << 20)
    prompts = [build_prompt(request, Markers(), prompt_first) for request in requests]
    joined = [
        each.before + "".join(f"<<LABEL>>{label}" for label in each.labels) + each.after for each in prompts
    ]
    for text, expected, found in zip(joined, stock(joined)["input_ids"], encoded, strict=True):
        assert found.token_ids.tolist() == expected, repr(text)
        marked = np.flatnonzero(found.token_ids == ours.label_id)
        assert marked.tolist() == found.label_spans[:, 0].tolist()
        assert (
            found.text_start == np.flatnonzero(found.token_ids == ours.sep_id)[0] == found.label_spans[-1, 1]
        )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["wordpiece", "unigram", "deberta"])
def test_ids_with_normalised_markers(family: str) -> None:
    """Markers added as ordinary tokens are searched for after normalisation; plain text still splices."""
    stock, ours = both(family, normalized=True)
    rng = random.Random(1)
    requests = [Request(rng.choice(SCRIPTS[:12]), tuple(rng.sample(SCRIPTS[:12], 2))) for _ in range(200)]
    joined = [
        "".join(f"<<LABEL>>{label}" for label in each.labels) + f"<<SEP>>{each.text}" for each in requests
    ]
    found = [ours.encode([build_prompt(each, ours.markers, True)], 1 << 20)[0] for each in requests]
    assert [each.token_ids.tolist() for each in found] == stock(joined)["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text", ["<<LABEL>>", "a <<LABEL>> b", "<<SEP>><<SEP>>", "x<<EXAMPLE>>", "<<label>>", "<<Sep>>"]
)
def test_marker_strings_in_texts_and_labels_are_ordinary_text(family: str, text: str) -> None:
    stock, ours = both(family)
    request = Request(text, ("one", text), text, [{"text": text, "labels": [text]}])
    found = ours.encode([build_prompt(request, ours.markers, True)], 1 << 20)[0]
    ids = found.token_ids.tolist()
    assert [ids.count(marker) for marker in stock.convert_tokens_to_ids(MARKERS)] == [2, 2, 1]
    assert found.num_labels == 2 and ids[found.text_start] == ours.sep_id


@pytest.mark.parametrize("prompt_first", [True, False])
def test_the_window_shortens_the_text_and_never_a_label(prompt_first: bool) -> None:
    stock = byte_tokenizer()
    ours = PromptTokenizer(stock, config_for(stock, prompt_first))
    request = Request("x" * 50, ("abc", "de"), examples=[{"text": "shot", "labels": ["z"]}])
    prompt = build_prompt(request, ours.markers, prompt_first)
    whole = ours.encode([prompt], 1 << 20)[0]
    for window in range(2 + 7 + 2, len(whole.token_ids) + 1):
        found = ours.encode([prompt], window)[0]
        assert len(found.token_ids) == window and found.token_ids[-1] == 2
        assert found.tokens_cut == len(whole.token_ids) - window
        shift = found.text_start - whole.text_start
        assert (found.label_spans == whole.label_spans + shift).all()
        assert found.token_ids[found.text_start] == ours.sep_id
        assert found.has_example == (ours.config.example_token_index in found.token_ids.tolist())
    with pytest.raises(ValueError, match=r"window of 10 tokens.*need 11.*labels_per_pass"):
        ours.encode([prompt], 10)


@pytest.mark.parametrize("prompt_first", [True, False])
def test_the_cut_is_the_reference_cut_where_that_leaves_the_labels_whole(prompt_first: bool) -> None:
    stock = byte_tokenizer()
    ours = PromptTokenizer(stock, config_for(stock, prompt_first))
    request = Request("some text " * 9, ("abc", "de"), "task ", [{"text": "shot", "labels": ["z"]}])
    prompt = build_prompt(request, Markers(), prompt_first)
    joined = prompt.before + "".join(f"<<LABEL>>{label}" for label in prompt.labels) + prompt.after
    for window in (20, 60, 100) if prompt_first else (101, 110, 120):
        found = ours.encode([build_prompt(request, ours.markers, prompt_first)], window)[0]
        assert found.token_ids.tolist() == stock(joined, truncation=True, max_length=window)["input_ids"]


def test_a_tokenizer_without_the_example_token() -> None:
    stock = byte_tokenizer(with_example=False)
    ours = PromptTokenizer(stock, config_for(stock, True))
    request = Request("x", ("a",), examples=[{"text": "t", "labels": "b"}])
    found = ours.encode([build_prompt(request, ours.markers, True)], 512)[0]
    joined = "<<LABEL>>a" + build_prompt(request, Markers(), True).after
    assert found.token_ids.tolist() == stock(joined)["input_ids"] and not found.has_example


def test_slow_tokenizers_are_refused() -> None:
    with pytest.raises(ValueError, match="not a fast tokenizer"):
        PromptTokenizer(object(), config_for(byte_tokenizer(), True))


def test_the_demo_tokenizer_is_a_wordpiece() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.PATH)
    assert tokenizer.tokenize("<<LABEL>>space exploration")[0] == "<<LABEL>>"
