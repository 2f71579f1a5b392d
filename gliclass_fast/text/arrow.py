"""Columns of pyarrow, whose strings need not be valid."""

from __future__ import annotations

from typing import Any


def values_of(column: Any) -> list[Any]:
    """Returns the values of a column of pyarrow, which may hold strings that are not UTF-8.

    Bytes of these become surrogates, which no valid text has, so that such a text fails alone. Raises
    UnicodeDecodeError where such strings stand within other values, as in lists.
    """
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        from pyarrow import types

        kind = column.type.value_type if types.is_dictionary(column.type) else column.type
        if not str(kind).startswith(("string", "large_string")):
            raise
        return [_value_of(each) for each in column]


def _value_of(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return error.object.decode("utf-8", "surrogateescape")
