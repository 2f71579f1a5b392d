"""Requests and prompts: what is asked about one text, and the strings that a reader makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Markers:
    """Holds the strings that stand for the marker tokens; a tokenizer replaces these usual spellings."""

    label: str = "<<LABEL>>"
    sep: str = "<<SEP>>"
    example: str = "<<EXAMPLE>>"


@dataclass(frozen=True, slots=True)
class Request:
    """Holds one text to classify, with everything that goes into its prompt."""

    text: str
    labels: tuple[str, ...]
    task: str = ""
    examples: Sequence[Mapping[str, Any]] = ()  # few-shot, {"text", "labels" or "true_labels"}
    # the reference's `rac_examples`, {"text", "true_labels", "all_labels"}
    retrieved: Sequence[Mapping[str, Any]] = ()
    adapter: str | None = None  # the id of the adapter that it is read with


@dataclass(frozen=True, slots=True)
class Prompt:
    """Holds a prompt in three parts: before + the labels, each behind a label marker, + after."""

    labels: tuple[str, ...]
    before: str
    after: str
    has_example: bool
