"""A call of the streaming pipeline, checked and in one form per chunk."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gliclass_fast.streaming.strategies import ClassificationStrategy
from gliclass_fast.text import arguments
from gliclass_fast.text.errors import WrongType, WrongValue
from gliclass_fast.text.examples import examples_per_text
from gliclass_fast.text.label_section import context_of
from gliclass_fast.text.labels import Labels, labels_per_text
from gliclass_fast.text.prompts import Markers, Request


@dataclass(frozen=True, slots=True)
class Chunk:
    """Holds what a call says of one session."""

    session_id: str
    text: str
    labels: Labels
    threshold: float | list[float]  # for all labels, or one per label
    kind: str  # "single-label" or "multi-label"
    strategy: ClassificationStrategy | None
    prefix: str  # prompt and examples, with the markers' stock names
    read_prefix: str  # the same, as the tokenizer reads it


def read_call(
    *,
    markers: Markers,
    label_separator: str,
    default_kind: str,
    texts: Any,
    labels: Any,
    session_ids: Any,
    threshold: Any,
    batch_size: Any,
    classification_type: Any,
    strategies: Any,
    examples: Any,
    prompt: Any,
    return_hierarchical: Any,
) -> list[Chunk]:
    """Returns a chunk per text; raises WrongType and WrongValue as the pipeline describes."""
    arguments.check_switches(return_hierarchical=return_hierarchical)
    texts = arguments.check_texts(texts)
    count = len(texts)
    names = _session_ids(session_ids, count)
    if batch_size is not None:
        check_positive(batch_size, "batch_size")
    if not texts:
        return []
    given = labels_per_text(labels, count, label_separator)
    tasks = arguments.tasks_per_text(prompt, count)
    shots = examples_per_text(() if examples is None else examples, count)
    requests = [Request("", (), task, own) for task, own in zip(tasks, shots, strict=True)]
    kinds = arguments.classification_types_per_text(classification_type, count, default_kind)
    columns = (
        names,
        texts,
        given,
        arguments.thresholds_per_text(threshold, [each.names for each in given], kinds),
        kinds,
        _strategies(strategies, count),
        [context_of(each, Markers()) for each in requests],
        [context_of(each, markers) for each in requests],
    )
    return [Chunk(*row) for row in zip(*columns, strict=True)]


def check_positive(value: Any, name: str) -> int:
    """Returns a setting; raises WrongType where it is no whole number, and WrongValue where it is below 1."""
    if arguments.whole_number(value, name, least=-sys.maxsize) <= 0:
        raise WrongValue(f"{name} must be greater than zero, got {value}")
    return int(value)


def limit_or_none(value: Any, name: str) -> int | None:
    """Returns None, or what `check_positive` does."""
    return None if value is None else check_positive(value, name)


def check_strategy(given: Any, name: str) -> ClassificationStrategy:
    """Returns a strategy; raises WrongType for anything else."""
    if not isinstance(given, ClassificationStrategy):
        raise WrongType(
            f"{name} must be a strategy that derives from gliclass_fast.streaming.ClassificationStrategy, "
            f"got {type(given).__name__}"
        )
    return given


def copy_of(
    strategy: ClassificationStrategy, metadata: dict[str, Any], session_id: str
) -> tuple[ClassificationStrategy, dict[str, Any]]:
    """Returns copies of a strategy and of what it wrote down; raises WrongType where there can be none."""
    try:
        return copy.deepcopy((strategy, metadata))
    except Exception as error:
        raise WrongType(
            f"the strategy {type(strategy).__name__} of session {session_id!r}, or the metadata that it "
            "wrote, cannot be copied, and a call needs a copy to leave the session as it was if it fails: "
            f"{error}"
        ) from error


def _session_ids(given: Any, count: int) -> list[str]:
    wanted = "a string or a list of strings"
    names = [given] if isinstance(given, str) else arguments.as_list(given, "session_ids", wanted)
    if len(names) != count:
        raise WrongValue(f"session_ids names a session per text, so it needs {count}; got {len(names)}")
    if any(not isinstance(name, str) or not name for name in names):
        raise WrongValue("every one of session_ids must be a string that is not empty")
    if len(set(names)) != count:
        raise WrongValue("session_ids must be unique within a call")
    return arguments.plain_strings(names, "session_ids")


def _strategies(given: Any, count: int) -> Sequence[ClassificationStrategy | None]:
    if given is None or isinstance(given, ClassificationStrategy):
        return [given] * count
    if hasattr(given, "should_classify"):
        check_strategy(given, "strategies")
    found = arguments.as_list(given, "strategies", "one for all texts, or a list of them")
    if len(found) != count:
        raise WrongValue(f"strategies has one per text, so it needs {count}; got {len(found)}")
    for place, each in enumerate(found):
        check_strategy(each, f"strategies[{place}]")
    return found
