"""Attributes of a pipeline: settings that are checked whenever they are set, and those with one value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

Value = TypeVar("Value")


class Setting(Generic[Value]):
    """An attribute of a pipeline, checked whenever it is set; the next call makes another engine for it.

    An object that is set once more may have changed in place, as a tokenizer may: it counts as another one.
    """

    def __init__(self, check: Callable[[Any], Value]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __set__(self, pipeline: Any, value: Any) -> None:
        before, checked = vars(pipeline).get(self._name), self._check(value)
        vars(pipeline)[self._name] = checked
        if checked is before and not isinstance(checked, (str, int, float, type(None))):
            pipeline._engine = None

    if TYPE_CHECKING:  # Python reads the value from the pipeline itself

        def __get__(self, pipeline: Any, owner: type | None = None) -> Value: ...


class Fixed:
    """An attribute of a pipeline with one value, which checkpoints were trained with."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, pipeline: Any, owner: type | None = None) -> str:
        return self._value

    def __set__(self, pipeline: Any, value: Any) -> None:
        """Takes the value itself; raises AttributeError for another one."""
        if value != self._value:
            raise AttributeError(f"{self._name} is {self._value!r}: checkpoints were trained with it")
