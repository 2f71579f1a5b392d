"""Texts and labels (and examples, and a task prompt) -> prompt strings, as GLiClass checkpoints were trained
on them.

prompt first:  <<LABEL>>a<<LABEL>>b<<SEP>>{task prompt}{text}{examples}
text first:    {text}<<LABEL>>a<<LABEL>>b<<SEP>>{task prompt}{examples}

Bi-encoders read texts without labels, fused ones with a bare <<LABEL>> for each; encoder-decoders read text
and labels as two sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Markers:
    """The strings that stand for the marker tokens; users' strings can only contain their usual spellings."""

    label: str = "<<LABEL>>"
    sep: str = "<<SEP>>"
    example: str = "<<EXAMPLE>>"


@dataclass(frozen=True, slots=True)
class Request:
    """One text to classify, with everything that goes into its prompt."""

    text: str
    labels: tuple[str, ...]
    task: str = ""
    examples: Sequence[Mapping[str, Any]] = ()  # few-shot, {"text", "labels" or "true_labels"}
    retrieved: Sequence[
        Mapping[str, Any]
    ] = ()  # the reference's `rac_examples`, {"text", "true_labels", "all_labels"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in three parts: before + the labels, each behind a label marker, + after."""

    labels: tuple[str, ...]
    before: str
    after: str
    has_example: bool


def build_prompt(request: Request, markers: Markers, prompt_first: bool) -> Prompt:
    text = request.text + format_retrieved(request.retrieved, markers)
    shots = format_examples(request.examples, markers)
    has_example = bool(shots) or any(example.get("true_labels") for example in request.retrieved)
    if prompt_first:
        return Prompt(request.labels, "", f"{markers.sep}{request.task}{text}{shots}", has_example)
    return Prompt(request.labels, text, f"{markers.sep}{request.task}{shots}", has_example)


def build_fused_prompt(request: Request, markers: Markers, prompt_first: bool) -> Prompt:
    """{task prompt} <<LABEL>><<LABEL>><<SEP>>{text}{examples}, or with the text in front of all."""
    text = request.text + format_retrieved(request.retrieved, markers)
    task = f"{request.task} " if request.task else ""
    shots = format_examples(request.examples, markers)
    bare = ("",) * len(request.labels)
    if prompt_first:
        return Prompt(bare, task, f"{markers.sep}{text}{shots}", bool(shots))
    return Prompt(bare, text + task, f"{markers.sep}{shots}", bool(shots))


def build_label_prompt(request: Request, markers: Markers) -> Prompt:
    """<<LABEL>>a<<LABEL>>b<<SEP>>{task prompt}"""
    return Prompt(request.labels, "", f"{markers.sep}{request.task}", has_example=False)


def full_text(request: Request, markers: Markers) -> str:
    """{text}{examples}, of encoder-decoders."""
    return (
        request.text
        + format_retrieved(request.retrieved, markers)
        + format_examples(request.examples, markers)
    )


def plain_text(request: Request) -> str:
    """{task prompt} {text}, of bi-encoders; their reference leaves examples out."""
    text = request.text + format_retrieved(request.retrieved, Markers())
    return f"{request.task} {text}" if request.task else text


def format_examples(examples: Sequence[Mapping[str, Any]], markers: Markers) -> str:
    """Every example behind its marker, one separator behind all of them."""
    if not examples:
        return ""
    parts = []
    for example in examples:
        labels = example.get("labels", example.get("true_labels", []))
        joined = ", ".join(labels) if isinstance(labels, list) else str(labels)
        parts.append(f"{markers.example}{example.get('text', '')} \nLabels:\n {joined}")
    return "".join(parts) + markers.sep


def format_retrieved(examples: Sequence[Mapping[str, Any]], markers: Markers) -> str:
    """Retrieval-augmented examples: {"text", "true_labels", "all_labels"}; those without a true label are
    left out.

    False labels follow in the order of `all_labels` (the reference's order is that of a set and changes per
    process).
    """
    parts = []
    for example in examples:
        true = example.get("true_labels") or []
        if not true:
            continue
        false = [label for label in dict.fromkeys(example.get("all_labels") or []) if label not in true]
        marked = " ".join(f"<<TRUE_LABEL>> {label}" for label in true)
        unmarked = " ".join(f"<<FALSE_LABEL>> {label}" for label in false)
        parts.append(f"{markers.example} {example.get('text', '')} {marked} {unmarked} <</EXAMPLE>>")
    return " " + " ".join(parts) if parts else ""


def flatten_labels(labels: Any, prefix: str = "", separator: str = ".") -> list[str]:
    """{"topic": ["sport", "art"]} -> ["topic.sport", "topic.art"], to any depth; a flat list stays as it is.

    Raises TypeError for anything but str, list and dict.
    """
    if isinstance(labels, str):
        return [f"{prefix}{separator}{labels}" if prefix else labels]
    if isinstance(labels, list):
        return [flat for label in labels for flat in flatten_labels(_leaf(label), prefix, separator)]
    if isinstance(labels, dict):
        flattened = []
        for key, value in labels.items():
            flattened += flatten_labels(
                value, f"{prefix}{separator}{_leaf(key)}" if prefix else _leaf(key), separator
            )
        return flattened
    raise TypeError(f"labels must be a list, a dict or a string, got {type(labels).__name__}")


def _leaf(label: Any) -> str:
    if not isinstance(label, str):
        raise TypeError(f"labels must be strings, got {label!r} of type {type(label).__name__}")
    return label
