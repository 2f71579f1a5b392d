"""Prompt strings: they are made of texts, labels, examples and a task prompt, in the forms that GLiClass
checkpoints were trained on.

prompt first:  <<LABEL>>a<<LABEL>>b<<SEP>>{task prompt}{text}{examples}
text first:    {text}<<LABEL>>a<<LABEL>>b<<SEP>>{task prompt}{examples}

Bi-encoders read texts without labels, and fused ones read a bare <<LABEL>> for each label. Encoder-decoders
read text and labels as two sequences.
"""

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


def build_prompt(request: Request, markers: Markers, prompt_first: bool) -> Prompt:
    """Builds the prompt of a text and its labels, in one of the two orders above."""
    text = request.text + format_retrieved(request.retrieved, markers)
    shots = format_examples(request.examples, markers)
    has_example = bool(shots) or any(example.get("true_labels") for example in request.retrieved)
    if prompt_first:
        return Prompt(request.labels, "", f"{markers.sep}{request.task}{text}{shots}", has_example)
    return Prompt(request.labels, text, f"{markers.sep}{request.task}{shots}", has_example)


def build_fused_prompt(request: Request, markers: Markers, prompt_first: bool) -> Prompt:
    """Builds {task prompt} <<LABEL>><<LABEL>><<SEP>>{text}{examples}, or puts the text in front of all."""
    text = request.text + format_retrieved(request.retrieved, markers)
    task = f"{request.task} " if request.task else ""
    shots = format_examples(request.examples, markers)
    bare = ("",) * len(request.labels)
    if prompt_first:
        return Prompt(bare, task, f"{markers.sep}{text}{shots}", bool(shots))
    return Prompt(bare, text + task, f"{markers.sep}{shots}", bool(shots))


def build_label_prompt(request: Request, markers: Markers) -> Prompt:
    """Builds <<LABEL>>a<<LABEL>>b<<SEP>>{task prompt}."""
    return Prompt(request.labels, "", f"{markers.sep}{request.task}", has_example=False)


def full_text(request: Request, markers: Markers) -> str:
    """Returns {text}{examples}, as encoder-decoders read it."""
    return (
        request.text
        + format_retrieved(request.retrieved, markers)
        + format_examples(request.examples, markers)
    )


def plain_text(request: Request) -> str:
    """Returns {task prompt} {text}, as bi-encoders read it; their reference leaves examples out."""
    text = request.text + format_retrieved(request.retrieved, Markers())
    return f"{request.task} {text}" if request.task else text


def format_examples(examples: Sequence[Mapping[str, Any]], markers: Markers) -> str:
    """Joins the examples, each behind its marker, and puts one separator behind all of them.

    The labels of an example are lists of strings.
    """
    if not examples:
        return ""
    parts = []
    for example in examples:
        labels = example.get("labels", example.get("true_labels", []))
        parts.append(f"{markers.example}{example.get('text', '')} \nLabels:\n {', '.join(labels)}")
    return "".join(parts) + markers.sep


def format_retrieved(examples: Sequence[Mapping[str, Any]], markers: Markers) -> str:
    """Joins examples {"text", "true_labels", "all_labels"}, and leaves out those without a true label.

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


def flatten_labels(labels: Any, separator: str = ".") -> list[str]:
    """Flattens labels of any depth: {"topic": ["sport", "art"]} gives ["topic.sport", "topic.art"].

    A flat list stays as it is, and a dict of descriptions gives its keys. Raises TypeError for anything but
    str, list and dict.
    """
    return (
        [_leaf(name) for name in labels]
        if are_descriptions(labels)
        else flatten_nested(labels, "", separator)
    )


def flatten_nested(labels: Any, prefix: str, separator: str) -> list[str]:
    """Flattens lists, dicts and strings, all of them a hierarchy below `prefix`."""
    if isinstance(labels, str):
        return [f"{prefix}{separator}{labels}" if prefix else labels]
    if isinstance(labels, list):
        return [flat for label in labels for flat in flatten_nested(_leaf(label), prefix, separator)]
    if isinstance(labels, dict):
        flattened = []
        for key, value in labels.items():
            flattened += flatten_nested(
                value, f"{prefix}{separator}{_leaf(key)}" if prefix else _leaf(key), separator
            )
        return flattened
    raise TypeError(f"labels must be a list, a dict or a string, got {type(labels).__name__}")


def are_descriptions(labels: Any) -> bool:
    """Says whether labels are a dict of strings, {label: description}, and no hierarchy."""
    return isinstance(labels, dict) and all(isinstance(text, str) for text in labels.values())


def _leaf(label: Any) -> str:
    if not isinstance(label, str):
        raise TypeError(f"labels must be strings, got {label!r} of type {type(label).__name__}")
    return label
