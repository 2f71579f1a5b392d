"""Truncation: what an engine says of texts that the window cuts."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from gliclass_fast.engine.naming import named
from gliclass_fast.text.errors import WrongValue

logger = logging.getLogger(__name__)

SILENCE = 60.0  # seconds between two warnings, so that a service does not write one per request


class CutReports:
    """Warns of cut texts, at most once in SILENCE, or raises."""

    def __init__(self, window: int, max_length: int, longest: int | None) -> None:
        """Takes the window and the two numbers of tokens that bound it: the caller's, and the model's."""
        self._window = window
        self.may_grow = longest is None or longest > max_length  # the window, by a larger max_length
        most = "" if longest is None else f" (this model reads up to {longest})"
        chunks = "take the chunking pipeline with chunk_tokens='auto'"
        self._remedy = f"Raise max_length{most}, or {chunks}" if self.may_grow else chunks.capitalize()
        self._silent_until, self._unsaid = float("-inf"), 0

    def report(self, numbers: Sequence[int], tokens: int, prompts: int, as_error: bool) -> None:
        """Says which texts are cut; raises WrongValue where that is an error.

        Args:
            numbers: the number of the text of every prompt that is cut.
            tokens: the most tokens that one of them loses.
            prompts: how many there are, whether cut or not.
            as_error: whether to raise.
        """
        message = (
            f"{len(numbers)} of {prompts} prompts exceed the window of {self._window} tokens: text was cut, "
            f"by at most {tokens} tokens, in {named(numbers)}. {self._remedy}"
        )
        if as_error:
            raise WrongValue(message.replace("was cut", "would be cut"))
        if time.monotonic() < self._silent_until:
            self._unsaid += len(numbers)
            return
        before = f"; {self._unsaid} more prompts were cut since the last one" if self._unsaid else ""
        logger.warning("%s. (Such warnings come once a minute at most%s.)", message, before)
        self._silent_until, self._unsaid = time.monotonic() + SILENCE, 0
