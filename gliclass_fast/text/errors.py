"""The errors of a caller: what somebody passed is wrong, and the message says what was expected."""

from __future__ import annotations

_FEWER = (  # who raises it knows no pipeline, and not every call of one has passes
    "Give fewer, or let a call score them in several passes (labels_per_pass='auto'; in the chunking "
    "pipeline a smaller labels_chunk_size)"
)


class ArgumentError(Exception):
    """Stands for every mistake in the arguments of a call; a service may answer it with status 422.

    Each is a TypeError or a ValueError as well.
    """


class WrongType(ArgumentError, TypeError):
    """An argument has a type that does not fit."""


class WrongValue(ArgumentError, ValueError):
    """An argument has a value, or a number of entries, that does not fit."""


class WrongLabels(WrongType, ValueError):
    """A part of the labels is no string, list or dict, which the reference reports as a ValueError."""


class WrongTokenizer(WrongType, ValueError):
    """A tokenizer is no fast one; a ValueError too, as a checkpoint may be what holds none."""


class LabelsDoNotFit(WrongValue):
    """The labels of a text take more tokens than a window has."""

    def __init__(self, labels: int, window: int, needs: str) -> None:
        """Takes the numbers of labels and of tokens.

        needs: the end of the message, such as "with one token of text they need 73".
        """
        super().__init__(labels, window, needs)

    @property
    def fault(self) -> str:
        """Says what is wrong, without what a caller of this library can do."""
        labels, window, needs = self.args
        return f"{labels} label(s) do not fit the window of {window} tokens: {needs}"

    def __str__(self) -> str:
        """Says what is wrong, and what a caller can do."""
        remedy = "Shorten it" if self.args[0] == 1 else _FEWER
        return f"{self.fault}. {remedy}, or raise max_length where the model allows it"
