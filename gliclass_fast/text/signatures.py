"""Signatures: an argument that a method does not have is refused as every other wrong argument is."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from gliclass_fast.text.errors import ArgumentError, WrongType

Method = TypeVar("Method", bound=Callable[..., Any])


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
