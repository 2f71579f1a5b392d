"""Tokenizers: strings and prompts become token ids, with the spans of every label and of the text.

A private copy of the tokenizer gives the marker tokens of prompts names that nobody can guess. A text that
contains `<<LABEL>>` is therefore ordinary text, and the spans come from how the prompt was built. Everything
else is as if the stock tokenizer had seen the joined string: added tokens split a string before anything else
happens to it, so pieces that are tokenised next to a marker can be joined.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from gliclass_fast.batch import EncodedPrompt, consecutive_spans
from gliclass_fast.config import ModelConfig
from gliclass_fast.text.errors import LabelsDoNotFit
from gliclass_fast.text.prompts import Markers, Prompt

LEAST_TEXT = 2  # tokens: <<SEP>> and one of the text
CACHED_LABEL_LISTS = 256
_CALLED = ("__call__", "encode_plus", "batch_encode_plus", "_encode_plus", "_batch_encode_plus")
_NO_LIMIT = 2**31 - 1  # transformers says 10**30 where a tokenizer has no limit


@dataclass(frozen=True, slots=True)
class _LabelBlock:
    """Holds the labels of one list, each behind its marker, as in a prompt with nothing before them."""

    token_ids: np.ndarray  # int32, from the special tokens in front of a prompt to the last label
    spans: np.ndarray  # int32 [labels, 2]


def backend_of(tokenizer: Any) -> Tokenizer:
    """Returns what does the work of a fast tokenizer; raises ValueError for anything else.

    A tokenizer that does more than its backend is something else: strings are given to the backend itself.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; load it with AutoTokenizer from a "
            "folder that has a tokenizer.json"
        )
    if own := _own_method(tokenizer):
        raise ValueError(
            f"{type(tokenizer).__name__}.{own} is no method of transformers, and the engine would leave it "
            "out, as it gives strings to the backend itself: put what it does into `backend_tokenizer`, or "
            "change the texts before the call; of a wrapper, give the tokenizer within it"
        )
    return backend


def _own_method(tokenizer: Any) -> str | None:
    """Returns the name of a method that makes ids, where the tokenizer has one that is not transformers'."""
    spaces = [vars(kind) for kind in type(tokenizer).__mro__]
    for name in _CALLED:
        method = next((space[name] for space in spaces if name in space), None)
        if not name.startswith("__"):  # which Python looks up on the class alone
            method = getattr(tokenizer, "__dict__", {}).get(name, method)
        while method is not None:
            method = getattr(method, "__func__", method)
            package = getattr(method, "__globals__", {}).get("__name__", "").partition(".")[0]
            if package != "transformers":
                return name
            method = getattr(method, "__wrapped__", None)
    return None


def window_of(max_length: int | None, tokenizer: Any) -> int:
    """Returns the tokens of a window: max_length, or for None the tokenizer's own limit, where it has one."""
    if max_length is None:
        inner = getattr(tokenizer, "tokenizer", tokenizer)  # that of a GliZNETTokenizer
        max_length = min(int(getattr(inner, "model_max_length", _NO_LIMIT)), _NO_LIMIT)
    return max_length


class SequenceTokenizer:
    """Gives the token ids of strings as the stock tokenizer does."""

    def __init__(self, tokenizer: Any, markers: Sequence[str] = ()) -> None:
        """Takes a fast tokenizer, else raises ValueError; `names` has the new names of the `markers`."""
        self._backend, self.names = _private_copy(backend_of(tokenizer), markers)
        self._prefix, self._suffix = _template(tokenizer)
        self._given = tokenizer

    @property
    def _cuts_left(self) -> bool:
        return getattr(self._given, "truncation_side", "right") == "left"  # it may be set between calls

    def cut(self, ids: Any, room: int) -> Any:
        """Returns at most `room` ids of a list: the first, or the last where `truncation_side` is "left"."""
        return ids[max(0, len(ids) - room) :] if self._cuts_left else ids[:room]

    def whole(self, strings: list[str], window: int) -> list[tuple[np.ndarray, int]]:
        """Returns every string as int32 ids, special tokens included, with the number of tokens cut off.

        A sequence has at most `window` tokens.
        """
        room = max(0, window - len(self._prefix) - len(self._suffix))
        return [
            (_ids([*self._prefix, *self.cut(ids, room), *self._suffix]), max(0, len(ids) - room))
            for ids in self.pieces(strings)
        ]

    def pieces(self, strings: list[str]) -> list[list[int]]:
        """Returns the ids of every string, without special tokens."""
        return [
            encoding.ids for encoding in self._backend.encode_batch_fast(strings, add_special_tokens=False)
        ]

    def token_starts(self, string: str) -> list[int]:
        """Returns the place in a string of the first character of each of its tokens."""
        return [start for start, _ in self._backend.encode(string, add_special_tokens=False).offsets]


class MarkedTokenizer(SequenceTokenizer):
    """Knows the names of the marker tokens, which no text can hold."""

    def __init__(self, tokenizer: Any) -> None:
        """Takes a fast tokenizer, else raises ValueError."""
        stock = (Markers().label, Markers().sep, Markers().example)
        super().__init__(tokenizer, stock)
        self.markers = Markers(*(self.names.get(marker, marker) for marker in stock))

    def check_marker(self, marker: str, option: str, expected: int) -> int:
        """Returns the id of a marker, as an option of config.json says it.

        Raises ValueError where the tokenizer has another id, or does not find the marker between texts.
        """
        found = self._backend.token_to_id(marker)
        if found != expected:
            raise ValueError(
                f"the tokenizer does not belong to this checkpoint: its marker token has id {found}, but "
                f"config.json says {option}={expected}"
            )
        if not _finds(self._backend, marker):
            raise ValueError(
                f"the tokenizer does not find its marker token, of {option}={expected}, between other text: "
                "add it as a special token"
            )
        return expected


class PromptTokenizer(MarkedTokenizer):
    """Encodes prompts for one checkpoint; the last few label lists stay tokenised."""

    def __init__(self, tokenizer: Any, config: ModelConfig) -> None:
        """Takes a fast tokenizer; raises ValueError where it does not belong to the checkpoint."""
        super().__init__(tokenizer)
        self.config = config
        self.label_id = self.check_marker(self.markers.label, "class_token_index", config.class_token_index)
        self.sep_id = self.check_marker(self.markers.sep, "text_token_index", config.text_token_index)
        example_id = self._backend.token_to_id(self.markers.example)
        self._example_counts = example_id is not None and example_id == config.example_token_index
        self._last_has_the_rest = config.last_label_has_the_rest
        self._block = lru_cache(maxsize=CACHED_LABEL_LISTS)(self._tokenize_labels)

    def encode(self, prompts: Sequence[Prompt], window: int) -> list[EncodedPrompt]:
        """Returns token ids within `window` tokens. What does not fit shortens the text part, never a label.

        Raises ValueError where the labels alone do not fit.
        """
        after = self.pieces([prompt.after for prompt in prompts])
        before: Iterable[list[int]] = ([] for _ in prompts)
        if any(prompt.before for prompt in prompts):
            # the text is tokenised with the marker that follows it, as in the whole prompt
            before = (
                ids[:-1] for ids in self.pieces([prompt.before + self.markers.label for prompt in prompts])
            )
        return [
            self._assemble(prompt, self._block(prompt.labels), front, back, window)
            for prompt, front, back in zip(prompts, before, after, strict=True)
        ]

    def label_tokens(self, labels: Sequence[str]) -> list[int]:
        """Counts the tokens that every label takes in a prompt, its marker included."""
        block = self._block(tuple(labels))
        return np.diff(block.spans)[:, 0].tolist()  # type: ignore[no-any-return]

    def room(self, window: int) -> int:
        """Counts the tokens that a window leaves for labels."""
        return window - len(self._prefix) - len(self._suffix) - LEAST_TEXT

    def _assemble(
        self, prompt: Prompt, block: _LabelBlock, front: Sequence[int], back: Sequence[int], window: int
    ) -> EncodedPrompt:
        head, spans = block.token_ids, block.spans
        free = window - len(head) - len(self._suffix)
        if free < LEAST_TEXT:
            needs = f"with one token of text they need {window - free + LEAST_TEXT}"
            raise LabelsDoNotFit(len(prompt.labels), window, needs)
        length = len(front) + len(back)
        # an end of the text is cut as in the reference, but no label or <<SEP>>
        if self._cuts_left:
            sep, behind = back[:1], self.cut(back[1:], free - 1)
            front, back = self.cut(front, free - 1 - len(behind)), [*sep, *behind]
        else:
            front = self.cut(front, free - 1)
            back = self.cut(back, free - len(front))
        if front:
            head = np.insert(head, len(self._prefix), front)
            spans = spans + len(front)
        token_ids = np.concatenate((head, _ids([*back, *self._suffix])))
        if self._last_has_the_rest:
            spans = spans.copy()  # prompts share it
            spans[-1, 1] = len(token_ids)
        has_example = prompt.has_example and self._example_counts
        if has_example and len(front) + len(back) < length:  # the cut may have taken the examples
            has_example = self.config.example_token_index in back or self.config.example_token_index in front
        return EncodedPrompt(
            token_ids=token_ids,
            text_start=len(head),
            label_spans=spans,
            has_example=has_example,
            tokens_cut=length - len(front) - len(back),
        )

    def _tokenize_labels(self, labels: tuple[str, ...]) -> _LabelBlock:
        label, sep = self.markers.label, self.markers.sep
        pieces = [ids[:-1] for ids in self.pieces([f"{label}{text}{sep}" for text in labels])]
        token_ids = _ids([*self._prefix, *chain.from_iterable(pieces)])
        spans = consecutive_spans([len(piece) for piece in pieces], len(self._prefix))
        spans.flags.writeable = False  # prompts share it
        return _LabelBlock(token_ids, spans)


def _ids(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def _private_copy(backend: Tokenizer, markers: Sequence[str]) -> tuple[Tokenizer, dict[str, str]]:
    """Copies the tokenizer for sequences alone; returns it with the new names of its marker tokens.

    It neither cuts nor pads nor adds special tokens, and white space belongs to its token. Nobody can guess
    the new names. Ids and all other behaviour stay. The names end in "|", which no Unicode
    normalisation joins with what follows.
    """
    state = json.loads(backend.to_str())
    state["truncation"] = state["padding"] = state["post_processor"] = None
    known = {token["content"] for token in state["added_tokens"]}
    nonce = secrets.token_hex(8)
    renamed = {marker: f"|{index}{nonce}|" for index, marker in enumerate(markers) if marker in known}
    for token in state["added_tokens"]:
        token["content"] = renamed.get(token["content"], token["content"])
    vocabulary = state["model"].get("vocab")
    if isinstance(vocabulary, dict):
        state["model"]["vocab"] = {renamed.get(piece, piece): id_ for piece, id_ in vocabulary.items()}
    elif isinstance(vocabulary, list):
        state["model"]["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocabulary]
    copied = Tokenizer.from_str(json.dumps(state))
    if lost := [marker for marker, name in renamed.items() if not _finds(copied, name)]:
        # its name is text to the stock tokenizer, and so it has to stay the same
        return _private_copy(backend, [marker for marker in markers if marker not in lost])
    return copied, renamed


def _finds(backend: Tokenizer, marker: str) -> bool:
    """Tells whether a marker is a token of its own wherever it stands in a text."""
    tokens: list[str] = backend.encode(f"{marker}a{marker}a", add_special_tokens=False).tokens
    return tokens.count(marker) == 2


def _template(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Returns the special tokens that a single sequence gets in front and behind."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise ValueError(f"cannot tell which special tokens {type(tokenizer).__name__} adds to a sequence")
