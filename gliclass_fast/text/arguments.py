"""Checks what a caller passed and brings it into one plain form; every message says what was expected.

Columns, arrays, iterators and subclasses of strings become lists, strings and numbers. Every prompt and every
key of a cache is made of what comes out: a member of a `(str, Enum)` is its value, as an f-string of it would
say `Topic.SPORT`. Labels and examples have files of their own.
"""

from __future__ import annotations

import difflib
import inspect
import numbers
import operator
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import wraps
from typing import Any, Literal, TypeVar, cast, get_args

from gliclass_fast.text import by_label
from gliclass_fast.text.errors import ArgumentError, WrongType, WrongValue

CLASSIFICATION_TYPES = {
    "single": "single-label",
    "single-label": "single-label",
    "single_label": "single-label",
    "multi": "multi-label",
    "multi-label": "multi-label",
    "multi_label": "multi-label",
}
Method = TypeVar("Method", bound=Callable[..., Any])
OnTruncation = Literal["warn", "error", "ignore"]
DEFAULT_THRESHOLD = 0.5
BYTES = (bytes, bytearray, memoryview)
CONVERSIONS = ("to_pylist", "tolist", "to_list")  # of pyarrow, of NumPy and pandas, of polars
_MOST_BITS = 10_000  # of an integer: Python writes out none of more than 4300 digits, as messages do


def plain_string(value: Any, name: str) -> str:
    """Returns a string of the type `str` itself; raises WrongType, or WrongValue where it is not Unicode."""
    if not isinstance(value, str):
        hint = ": decode it first" if isinstance(value, BYTES) else ""
        raise WrongType(f"{name} must be a string, got {type(value).__name__}{hint}")
    plain = str.__str__(value)
    try:
        plain.encode()
    except UnicodeEncodeError as error:
        raise WrongValue(f"{name} is not valid text: {error.reason} at position {error.start}") from None
    return plain


def plain_strings(values: Iterable[Any], name: str, first: int = 0) -> list[str]:
    """Returns `plain_string` of every value; messages count them from `first`."""
    return [
        value if type(value) is str and value.isascii() else plain_string(value, f"{name}[{index}]")
        for index, value in enumerate(values, first)
    ]


def as_list(values: Any, name: str, wanted: str) -> list[Any]:
    """Returns the values of a list, tuple, array, column, iterator or other iterable as a list.

    Raises WrongType, which says what is `wanted`, for anything else: a set has no order that a caller could
    know, and a table has several columns.
    """
    if isinstance(values, list):
        return values
    if isinstance(values, (set, frozenset)):
        raise WrongType(f"{name} is a set, whose order nobody knows: give a list")
    if hasattr(values, "columns"):
        raise WrongType(f"{name} is a table ({type(values).__name__}): give one of its columns")
    found = _listed(values)
    if isinstance(found, list):
        return found
    hint = ": decode them first" if isinstance(values, BYTES) else ""
    raise WrongType(f"{name} must be {wanted}, got {type(values).__name__}{hint}")


def converted(value: Any) -> Any:
    """Returns the values of a column or an array as those of Python; anything else is returned as it is."""
    for method in CONVERSIONS:
        if callable(convert := getattr(value, method, None)):
            return convert()
    return value


def _listed(values: Any) -> Any:
    if (found := converted(values)) is not values:
        return found
    if isinstance(values, (str, Mapping, *BYTES)):
        return None
    try:
        return list(iter(values))
    except TypeError:
        return None


def per_text(value: Any, count: int, name: str, one: Callable[[Any], bool]) -> list[Any]:
    """Returns an entry per text, where `one` says whether the value is a single one that all texts share."""
    if one(value):
        return [value] * count
    entries = as_list(value, name, "one for all texts, or a list of them")
    if len(entries) != count:
        raise WrongValue(f"{name} has one entry per text, so it needs {count}; got {len(entries)}")
    return entries


def whole_number(value: Any, name: str, least: int = 1) -> int:
    """Returns an int, also of NumPy's; raises WrongType, or WrongValue below `least` or of absurd length."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise WrongType(f"{name} must be a whole number, got {type(value).__name__}") from None
    if number.bit_length() > _MOST_BITS:
        raise WrongValue(f"{name} must be a whole number, got one of {number.bit_length()} bits")
    if number < least:
        raise WrongValue(f"{name} must be at least {least}, got {number}")
    return number


def said(value: Any) -> str:
    """Returns what a message says of a value of any type; an integer of very many digits has no repr."""
    try:
        return repr(value)
    except ValueError:
        return f"<{type(value).__name__}>"


def check_max_length(value: Any) -> int | None:
    """Returns the tokens of a window, or None; raises WrongType, or WrongValue below 1."""
    return None if value is None else whole_number(value, "max_length")


def check_batch_tokens(value: Any) -> int | None:
    """Returns the tokens of a batch, or None; raises WrongType, or WrongValue below 1."""
    return None if value is None else whole_number(value, "batch_tokens")


def score_between_0_and_1(value: Any, name: str, where: str = "") -> float:
    """Returns a float, also of NumPy's numbers; raises WrongType, or WrongValue outside [0, 1]."""
    if getattr(value, "ndim", None) == 0:  # an array or a tensor that holds one number
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, Decimal)):
        raise WrongType(f"{name} must be a number, got {type(value).__name__}{where}")
    try:
        number = float(value)
    except OverflowError:  # an integer of very many digits
        number = value = float("inf")
    except ValueError:  # a NaN of Decimal that signals
        number = float("nan")
    if not 0 <= number <= 1:
        raise WrongValue(f"{name} must be between 0 and 1, got {value}{where}")
    return number


def check_texts(texts: Any, first: int = 0) -> list[str]:
    """Returns one or several texts as a list of strings; messages count them from `first`, `first_text`."""
    first = whole_number(first, "first_text", least=0)
    if isinstance(texts, str):
        texts = [texts]
    return plain_strings(as_list(texts, "texts", "a string or a list of strings"), "texts", first)


def refuse_no_texts(given: Sequence[Any]) -> None:
    """Raises WrongValue where there is nothing for a text: a stock model takes no empty batch."""
    if not given:
        raise WrongValue("texts is empty: give at least one text")


def thresholds_per_text(
    threshold: Any, names: Sequence[tuple[str, ...]], types: Sequence[str]
) -> list[float | list[float]]:
    """Returns the threshold of every text: a number, or where a dict has it by label, one per label.

    Labels that such a dict does not name have 0.5. names: the labels of every text. types: those of
    classification; a single-label text needs no threshold, so None is one.
    """
    if isinstance(threshold, Mapping):
        shared = _scores_by_label(threshold, "threshold")
        by_label.refuse_unknown(shared, names, "threshold")
        of = {own: by_label.aligned(shared, own, DEFAULT_THRESHOLD) for own in dict.fromkeys(names)}
        return [of[own] for own in names]
    if _is_one_number(threshold) and threshold is not None:
        return [score_between_0_and_1(threshold, "threshold")] * len(names)
    found: list[float | list[float]] = []
    values = per_text(threshold, len(names), "threshold", _is_one_number)
    for index, (value, own) in enumerate(zip(values, names, strict=True)):
        if isinstance(value, Mapping):
            given = _scores_by_label(value, f"threshold[{index}]")
            by_label.refuse_unknown(given, [own], f"threshold[{index}]")
            found.append(by_label.aligned(given, own, DEFAULT_THRESHOLD))
        elif value is None and types[index] == "single-label":
            found.append(DEFAULT_THRESHOLD)
        else:
            found.append(score_between_0_and_1(value, "threshold", f" for text {index}"))
    return found


def _is_one_number(value: Any) -> bool:
    return (
        isinstance(value, (numbers.Real, Decimal, str)) or value is None or getattr(value, "ndim", None) == 0
    )


def _scores_by_label(given: Mapping[Any, Any], name: str) -> dict[str, float]:
    return {
        plain_string(label, f"a label of {name}"): score_between_0_and_1(value, f"{name}[{label!r}]")
        for label, value in given.items()
    }


def classification_types_per_text(value: Any, count: int, default: str) -> list[str]:
    """Returns `check_classification_type` of every text's type, or the default in the place of None.

    Raises WrongType for what is no list of them, and WrongValue for another number of entries.
    """
    values = per_text(
        value, count, "classification_type", lambda given: given is None or isinstance(given, (str, int))
    )
    return [default if each is None else check_classification_type(each) for each in values]


def check_classification_type(value: Any) -> str:
    """Returns "single-label" or "multi-label" for any name of either; raises WrongValue for all else."""
    name = CLASSIFICATION_TYPES.get(str.__str__(value).strip().lower()) if isinstance(value, str) else None
    if name is None:
        raise WrongValue(
            f"unsupported classification type {said(value)}: choose 'single-label' or 'multi-label'"
        )
    return name


def check_labels_per_pass(value: Any) -> int | Literal["auto"] | None:
    """Returns the labels of a pass, "auto", or None for all at once; raises WrongValue for all else."""
    if value is None:
        return None
    if isinstance(value, str) and value == "auto":
        return "auto"
    try:
        return whole_number(value, "labels_per_pass")
    except (WrongType, WrongValue):
        raise WrongValue(
            f"labels_per_pass must be a positive number, 'auto' or None, got {said(value)}"
        ) from None


def check_on_truncation(value: Any) -> OnTruncation:
    """Returns one of the values of `OnTruncation`; raises WrongValue for all else."""
    plain = str.__str__(value) if isinstance(value, str) else None
    if plain not in get_args(OnTruncation):
        known = ", ".join(get_args(OnTruncation))
        raise WrongValue(f"on_truncation must be one of {known}, got {said(value)}")
    return cast(OnTruncation, plain)


def refuse_unsupported(**given: Any) -> None:
    """Raises WrongType for what only other engines have, unless it is None for every text.

    The reference raises TypeError too, as its pipelines for text have no such arguments.
    """
    for name, value in given.items():
        if not _is_absent(value):
            raise WrongType(f"{name} is not supported: this engine reads text alone")


def check_switch(value: Any, name: str) -> bool:
    """Returns whether a value is true; raises WrongType for what is neither, as an array of several is."""
    try:
        return bool(value)
    except (TypeError, ValueError, RuntimeError):  # of NumPy, and the last of torch
        raise WrongType(f"{name} must be true or false, got {type(value).__name__}") from None


def check_switches(**given: Any) -> None:
    """Raises WrongType where `check_switch` does for one of the values."""
    for name, value in given.items():
        check_switch(value, name)


def adapters_per_text(value: Any, count: int, loaded: Container[str]) -> list[str | None]:
    """Returns the id of every text's adapter, None for the model without one.

    Raises WrongValue for an id that is not among those `loaded`, and for another number of entries.
    """
    if value is None:
        return [None] * count
    ids = per_text(value, count, "adapter_ids", lambda given: isinstance(given, str))
    checked = [
        None if each is None else plain_string(each, f"adapter_ids (for text {n})")
        for n, each in enumerate(ids)
    ]
    for number, each in enumerate(checked):
        if each is not None and each not in loaded:
            raise WrongValue(f"adapter {each!r} (for text {number}) is not loaded: call load_adapter first")
    return checked


def _is_absent(value: Any) -> bool:
    """Tells whether a value is None, or None for every text."""
    return value is None or (isinstance(value, (list, tuple)) and all(each is None for each in value))


def tasks_per_text(prompt: Any, count: int) -> list[str]:
    """Returns the prompt of every text, "" for none; raises WrongType, or WrongValue for another number."""
    if isinstance(prompt, (list, tuple)) and not prompt:  # as no examples are
        prompt = None
    values = per_text(
        prompt, count, "prompt", lambda given: given is None or isinstance(given, (str, int, bytes))
    )
    return [
        "" if each is None else plain_string(each, f"prompt (for text {n})") for n, each in enumerate(values)
    ]


def checks_names(method: Method) -> Method:
    """Makes a method raise WrongType for an argument that it lacks, does not have, or gets twice.

    The message has the nearest name where one is near. Other errors pass as they are.
    """

    @wraps(method)
    def checked(*positional: Any, **named: Any) -> Any:
        try:
            return method(*positional, **named)
        except ArgumentError:
            raise
        except TypeError:
            signature = inspect.signature(method)
            try:
                signature.bind(*positional, **named)
            except TypeError as error:
                raise WrongType(_fault(error, signature, named)) from None
            raise  # an error from within

    return cast(Method, checked)


def _fault(error: TypeError, signature: inspect.Signature, named: dict[str, Any]) -> str:
    known = [name for name in signature.parameters if name != "self"]
    unknown = next((name for name in named if name not in known), None)
    if unknown is None:
        return f"{error}; the arguments are {', '.join(known)}"
    nearest = difflib.get_close_matches(unknown, known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"the arguments are {', '.join(known)}"
    return f"unknown argument {unknown!r}; {hint}"
