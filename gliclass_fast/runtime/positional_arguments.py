"""Calls of a model with arguments by position, in the order in which the reference's models take them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from gliclass_fast.config import all_by_name
from gliclass_fast.text.errors import WrongType


def by_position_too(method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a method of a model take arguments by position too, where the reference has them."""

    @wraps(method)
    def by_name(model: Any, *positional: Any, **named: Any) -> Any:
        try:
            given = all_by_name(model.loaded.network.call_positions, positional, named)
        except TypeError as error:
            raise WrongType(str(error)) from None
        return method(model, **given)

    return by_name
