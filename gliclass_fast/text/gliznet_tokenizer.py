"""GliZNETTokenizer: it makes GliZNet's input of texts and labels, `[CLS] text [SEP] (label [LAB])*`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt, consecutive_spans
from gliclass_fast.checkpoint.files import load_tokenizer
from gliclass_fast.text.arguments import as_list, plain_string, plain_strings, said, whole_number
from gliclass_fast.text.errors import LabelsDoNotFit, WrongType, WrongValue
from gliclass_fast.text.tokenizer import CACHED_LABEL_LISTS, SequenceTokenizer, backend_of

Pieces = list[list[int]]


class GliZNETTokenizer:
    """Does what the author's tokenizer does, but never drops a label, and takes `[LAB]` in a text as text."""

    def __init__(
        self,
        pretrained_model_name_or_path: str | Path | Any,
        lab_token: str = "[LAB]",
        max_tokens_per_span: int | None = None,
        min_text_tokens: int | None = None,
        min_label_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Loads a tokenizer, or takes a loaded one.

        Args:
            pretrained_model_name_or_path: a folder or repository id, or a fast tokenizer.
            lab_token: the token that follows every label; it is added to a tokenizer that does not have it.
            max_tokens_per_span: tokens of a label that count; default: as the tokenizer was saved, else 64.
            min_text_tokens: tokens that are left of a text where a window is too small; default: as the
                tokenizer was saved, else 10.
            min_label_tokens: the same for each label; default: as the tokenizer was saved, else 2.
            kwargs: options of `AutoTokenizer.from_pretrained`, for example model_max_length=512; for a
                folder or repository id only.

        Raises WrongType and WrongValue for arguments that are not as described.
        """
        if "return_tensors" in kwargs:  # which AutoTokenizer takes, without a word
            raise WrongType("return_tensors is an option of a call, not of loading a tokenizer")
        if not (lab_token := plain_string(lab_token, "lab_token")):
            raise WrongValue("lab_token is empty: it must be a token")
        given = pretrained_model_name_or_path
        if isinstance(given, (str, Path)):
            given = load_tokenizer(given, **kwargs)
        elif kwargs:
            raise WrongType(
                f"{', '.join(kwargs)}: options of loading do nothing for a tokenizer that is loaded"
            )
        backend_of(given)
        self.tokenizer = given
        if lab_token not in self.tokenizer.get_vocab():
            self.tokenizer.add_special_tokens({"additional_special_tokens": [lab_token]})
        saved = self.tokenizer.init_kwargs

        def setting(name: str, value: int | None, default: int, least: int = 0) -> int:
            return int(saved.get(name, default)) if value is None else whole_number(value, name, least)

        self.max_tokens_per_span = setting("max_tokens_per_span", max_tokens_per_span, 64, 1)
        self.min_text_tokens = setting("min_text_tokens", min_text_tokens, 10)
        self.min_label_tokens = setting("min_label_tokens", min_label_tokens, 2)
        self.lab_token, self.lab_token_id = lab_token, self.tokenizer.convert_tokens_to_ids(lab_token)
        self.cls_token_id, self.sep_token_id = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        self.pad_token_id = self.tokenizer.pad_token_id
        sequences = SequenceTokenizer(self.tokenizer, [lab_token])
        self._pieces, self.token_starts = sequences.pieces, sequences.token_starts
        self._whole_labels = lru_cache(maxsize=CACHED_LABEL_LISTS)(lambda labels: self._pieces(list(labels)))

    def __reduce__(self) -> tuple[Any, ...]:
        least = self.min_text_tokens, self.min_label_tokens
        return type(self), (self.tokenizer, self.lab_token, self.max_tokens_per_span, *least)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> GliZNETTokenizer:
        """Loads a tokenizer from a folder or repository; kwargs are those of the class."""
        return cls(pretrained_model_name_or_path, **kwargs)

    @property
    def max_length(self) -> int:
        """Returns the window in tokens."""
        return int(self.tokenizer.model_max_length)

    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __call__(
        self, examples: Sequence[tuple[str, Sequence[str]]], return_tensors: str | None = "pt"
    ) -> dict[str, Any]:
        """Returns the padded input of (text, labels) pairs: input_ids, attention_mask, lmask, int64 [N, S].

        lmask is k on the tokens of label k, counted from 1, and 0 elsewhere. return_tensors: "pt", or None
        for lists. Raises WrongType and WrongValue for other arguments, among them for no examples, and
        LabelsDoNotFit where labels do not fit the window.
        """
        if return_tensors is not None and (not isinstance(return_tensors, str) or return_tensors != "pt"):
            raise WrongValue(f"return_tensors must be 'pt' or None, got {said(return_tensors)}")
        encoded = self.encode(*_checked(examples))
        longest = max(len(each.token_ids) for each in encoded)
        batch = {
            "input_ids": np.full((len(encoded), longest), self.pad_token_id),
            "attention_mask": np.zeros((len(encoded), longest), dtype=np.int64),
            "lmask": np.zeros((len(encoded), longest), dtype=np.int64),
        }
        for row, each in enumerate(encoded):
            batch["input_ids"][row, : len(each.token_ids)] = each.token_ids
            batch["attention_mask"][row, : len(each.token_ids)] = 1
            for number, (start, end) in enumerate(each.label_spans, 1):
                batch["lmask"][row, start : end - 1] = number
        if return_tensors is None:
            return {name: values.tolist() for name, values in batch.items()}
        return {name: torch.from_numpy(values).long() for name, values in batch.items()}

    def tokenize(
        self,
        texts: str | Sequence[str],
        text_labels: Sequence[str] | Sequence[Sequence[str]],
        return_tensors: str = "pt",
    ) -> dict[str, Tensor]:
        """Encodes one text with its labels, without the batch's dimension, or a list of each with it.

        Raises the errors of a call, and WrongValue where there are not as many lists of labels as texts.
        """
        if isinstance(texts, str):
            whole = self([(texts, text_labels)], return_tensors)  # type: ignore[list-item]
            return {name: values[0] for name, values in whole.items()}
        given = as_list(texts, "texts", "a string or a list of strings")
        labels = as_list(text_labels, "text_labels", "a list of labels per text")
        if len(labels) != len(given):
            raise WrongValue(
                f"text_labels has one list per text, so it needs {len(given)}; got {len(labels)}"
            )
        return self(list(zip(given, labels, strict=True)), return_tensors)

    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> str:
        text: str = self.tokenizer.decode(token_ids, **kwargs)
        return text

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> Any:
        names = ("max_tokens_per_span", "min_text_tokens", "min_label_tokens")
        self.tokenizer.init_kwargs.update({name: getattr(self, name) for name in names})
        return self.tokenizer.save_pretrained(save_directory, **kwargs)

    def encode(
        self, texts: Sequence[str], labels: Sequence[tuple[str, ...]], window: int | None = None
    ) -> list[EncodedPrompt]:
        """Returns token ids and spans; a label's span ends with its [LAB]."""
        return [
            self._assemble(text, self.labels(own), min(window or self.max_length, self.max_length))
            for text, own in zip(self._pieces(list(texts)), labels, strict=True)
        ]

    def labels(self, labels: tuple[str, ...]) -> Pieces:
        """Returns the tokens of labels that count."""
        return [ids[: self.max_tokens_per_span] for ids in self._whole_labels(labels)]

    def _assemble(self, text: list[int], labels: Pieces, window: int) -> EncodedPrompt:
        kept_text, kept = self._fit(text, labels, window - 2)
        ids = [self.cls_token_id, *kept_text, self.sep_token_id]
        text_end = len(ids)
        for label in kept:
            ids += [*label, self.lab_token_id]
        return EncodedPrompt(
            token_ids=np.array(ids, dtype=np.int32),
            text_start=0,
            text_end=text_end,
            label_spans=consecutive_spans([len(label) + 1 for label in kept], text_end),
            tokens_cut=len(text) - len(kept_text) + sum(map(len, labels)) - sum(map(len, kept)),
        )

    def _fit(self, text: list[int], labels: Pieces, room: int) -> tuple[list[int], Pieces]:
        """Returns text and labels within `room` tokens, [LAB]s included.

        Labels become shorter first: each keeps its least, and what is left over goes to them in proportion to
        their lengths. Then the text becomes shorter.
        """
        total = sum(map(len, labels))
        if len(text) + total + len(labels) <= room:
            return text, labels
        least = len(labels) * self.min_label_tokens
        spare = room - len(text) - len(labels) - least
        if spare >= 0:
            share = [int(spare * len(label) / total) if total else 0 for label in labels]
            kept = [label[: self.min_label_tokens + more] for label, more in zip(labels, share, strict=True)]
            return text, kept
        kept = [label[: self.min_label_tokens] for label in labels]
        text = text[: max(room - len(labels) - least, self.min_text_tokens)]
        needed = len(text) + sum(map(len, kept)) + len(labels)
        if needed > room:
            smallest = f"at most {self.min_label_tokens} tokens each and {len(text)} of text"
            raise LabelsDoNotFit(len(labels), room + 2, f"with {smallest} they need {needed + 2}")
        return text, kept


def _checked(examples: Any) -> tuple[list[str], list[tuple[str, ...]]]:
    """Returns the texts of pairs, and the labels of each; raises WrongType and WrongValue for all else."""
    wanted = "a pair of a text and its labels"
    pairs = [
        as_list(pair, f"examples[{number}]", wanted)
        for number, pair in enumerate(as_list(examples, "examples", "a list of (text, labels) pairs"))
    ]
    if not pairs:
        raise WrongValue(f"no examples: give at least one, {wanted}")
    for number, pair in enumerate(pairs):
        if len(pair) != 2:
            raise WrongValue(f"examples[{number}] must be {wanted}, got {len(pair)} values")
    labels = []
    for number, (_, own) in enumerate(pairs):
        name = f"labels (for text {number})"
        labels.append(tuple(plain_strings(as_list(own, name, "a list of strings"), name)))
    return plain_strings([text for text, _ in pairs], "texts"), labels
