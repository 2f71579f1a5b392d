"""The errors of a caller: what somebody passed is wrong, and the message says what was expected."""

from __future__ import annotations


class ArgumentError(Exception):
    """Stands for every mistake in the arguments of a call; a service may answer it with status 422.

    Each is a TypeError or a ValueError as well.
    """


class WrongType(ArgumentError, TypeError):
    """An argument has a type that does not fit."""


class WrongValue(ArgumentError, ValueError):
    """An argument has a value, or a number of entries, that does not fit, or labels do not fit the window."""
