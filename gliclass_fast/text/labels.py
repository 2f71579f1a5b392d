"""Labels: what a caller gives becomes, for every text, what its prompt says and what its results say.

A dict of strings gives descriptions: {"refund": "the customer wants money back"} puts the description in the
prompt and "refund" in the results. Any other dict is a hierarchy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gliclass_fast.text.arguments import BYTES, as_list, plain_string, plain_strings
from gliclass_fast.text.by_label import refuse_unknown
from gliclass_fast.text.errors import WrongLabels, WrongType, WrongValue

DEEPEST = 64  # levels of a hierarchy of labels
_WANTED = "a list, a nested dict, or one of these per text"


@dataclass(frozen=True, slots=True)
class Labels:
    """Holds the labels of one text."""

    names: tuple[str, ...]  # as results say them
    read: tuple[str, ...]  # as the prompt says them
    structure: Any  # lists and dicts that hold the names in the shape that was given


def labels_per_text(labels: Any, count: int, separator: str) -> list[Labels]:
    """Returns the labels of every text, from one structure for all or one per text."""
    if isinstance(labels, Mapping):
        return [_labels(labels, "labels", separator)] * count
    labels = as_list(labels, "labels", _WANTED)
    if not labels:
        raise WrongValue("labels is empty: give at least one label")
    if isinstance(labels[0], str):
        return [_labels(labels, "labels", separator)] * count
    if not hasattr(labels[0], "__iter__") or isinstance(labels[0], BYTES):
        plain_string(labels[0], "labels[0]")
    if len(labels) != count:
        raise WrongValue(f"labels has one list per text, so it needs {count} of them; got {len(labels)}")
    return [_labels(each, f"labels[{index}]", separator) for index, each in enumerate(labels)]


def with_descriptions(labels: list[Labels], descriptions: Any) -> list[Labels]:
    """Puts descriptions, {name: description}, in the prompts in place of the names that they describe."""
    if descriptions is None:
        return labels
    if not isinstance(descriptions, Mapping):
        raise WrongType(f"label_descriptions must be a dict of strings, got {type(descriptions).__name__}")
    if any(each.read != each.names for each in labels):
        raise WrongValue("labels has descriptions already: give them there or in label_descriptions")
    own = {
        plain_string(name, "a label of label_descriptions"): plain_string(
            text, f"label_descriptions: the description of {name!r}"
        )
        for name, text in descriptions.items()
    }
    refuse_unknown(own, [each.names for each in labels], "label_descriptions")
    made: dict[int, Labels] = {}  # texts that share their labels share what is made of them
    for each in labels:
        if id(each) not in made:
            made[id(each)] = replace(each, read=tuple(own.get(name) or name for name in each.names))
    return [made[id(each)] for each in labels]


def _labels(given: Any, name: str, separator: str) -> Labels:
    structure = _plain(given, name)
    try:
        names = tuple(flatten_labels(structure, separator=separator))
    except WrongLabels as error:
        raise WrongLabels(f"{name}: {error}") from None
    if not names:
        raise WrongValue(f"{name} is empty: give at least one label")
    if isinstance(structure, list):
        return Labels(names, names, structure)
    for label in names:
        plain_string(label, f"a label of {name}")
    if not are_descriptions(structure):
        return Labels(names, names, structure)
    described = (plain_string(text, f"the description of {key!r}") for key, text in structure.items())
    return Labels(names, tuple(text or key for key, text in zip(names, described, strict=True)), list(names))


def _plain(given: Any, name: str) -> list[Any] | dict[Any, Any]:
    """Returns a structure of labels with plain lists, dicts and strings; a flat list is checked here."""
    if isinstance(given, Mapping):
        return {_key(key): _part(value, name, 1) for key, value in given.items()}
    return plain_strings(as_list(given, name, "a list of strings or a nested dict"), name)


def _part(part: Any, name: str, depth: int = 0) -> Any:
    """Returns a part of a structure so many levels below its top."""
    if isinstance(part, str):
        return str.__str__(part)
    if depth > DEEPEST:
        raise WrongValue(f"{name} has more than {DEEPEST} levels")
    if isinstance(part, Mapping):
        return {_key(key): _part(value, name, depth + 1) for key, value in part.items()}
    if hasattr(part, "__iter__"):
        entries = as_list(part, f"a list of {name}", "a list of strings")
        return [_part(each, name, depth + 1) for each in entries]
    return part


def _key(key: Any) -> Any:
    """Returns the plain string of a key; one of another type is refused where the structure is flattened."""
    return str.__str__(key) if isinstance(key, str) else key


def flatten_labels(labels: Any, separator: str = ".") -> list[str]:
    """Flattens labels of any depth: {"topic": ["sport", "art"]} gives ["topic.sport", "topic.art"].

    A flat list stays as it is, and a dict of descriptions gives its keys. Raises WrongLabels for anything
    but str, list and dict.
    """
    return (
        [_leaf(name) for name in labels]
        if are_descriptions(labels)
        else flatten_nested(labels, "", separator)
    )


def flatten_nested(labels: Any, prefix: str, separator: str) -> list[str]:
    """Flattens lists, dicts and strings, all of them a hierarchy below `prefix`."""
    if isinstance(labels, str):
        return [below(prefix, labels, separator)]
    if isinstance(labels, list):
        return [below(prefix, _leaf(label), separator) for label in labels]
    if isinstance(labels, dict):
        parts = [(below(prefix, _leaf(key), separator), value) for key, value in labels.items()]
        return [flat for path, value in parts for flat in flatten_nested(value, path, separator)]
    raise WrongLabels(f"labels must be a list, a dict or a string, got {type(labels).__name__}")


def below(prefix: str, name: str, separator: str) -> str:
    """Returns the flat name of a part of a hierarchy: a level without a name at the top adds nothing."""
    return f"{prefix}{separator}{name}" if prefix else name


def are_descriptions(labels: Any) -> bool:
    """Says whether labels are a dict of strings, {label: description}, and no hierarchy."""
    return isinstance(labels, dict) and all(isinstance(text, str) for text in labels.values())


def _leaf(label: Any) -> str:
    if not isinstance(label, str):
        raise WrongLabels(f"labels must be strings, got {label!r} of type {type(label).__name__}")
    return label
