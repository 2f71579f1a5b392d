"""Truncation: what an engine says of texts that the window cuts."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.engine.naming import named
from gliclass_fast.text.arguments import OnTruncation
from gliclass_fast.text.errors import WrongValue

logger = logging.getLogger(__name__)

SILENCE = 60.0  # seconds between two warnings, so that a service does not write one per request


class CutReports:
    """Warns of cut texts, at most once in SILENCE, or raises."""

    def __init__(self, window: int, max_length: int, longest: int | None) -> None:
        """Takes the window and the two numbers of tokens that bound it: the caller's, and the model's."""
        self._window = window
        raising = longest is None or longest > max_length
        most = "" if longest is None else f" (this model reads up to {longest})"
        chunks = "take the chunking pipeline with chunk_tokens='auto'"
        self._remedy = f"Raise max_length{most}, or {chunks}" if raising else chunks.capitalize()
        self._silent_until, self._unsaid = float("-inf"), 0

    def report(
        self, prompts: Sequence[EncodedPrompt], numbers: Sequence[int], on_truncation: OnTruncation
    ) -> None:
        """Says which texts are cut; numbers: the number that messages give to the text of each prompt.

        Raises WrongValue for "error".
        """
        cut = [place for place, prompt in enumerate(prompts) if prompt.tokens_cut]
        if not cut or on_truncation == "ignore":
            return
        message = (
            f"{len(cut)} of {len(prompts)} prompts exceed the window of {self._window} tokens: text was cut, "
            f"by at most {max(prompts[place].tokens_cut for place in cut)} tokens, in "
            f"{named(numbers[place] for place in cut)}. {self._remedy}"
        )
        if on_truncation == "error":
            raise WrongValue(message.replace("was cut", "would be cut"))
        if time.monotonic() < self._silent_until:
            self._unsaid += len(cut)
            return
        before = f"; {self._unsaid} more prompts were cut since the last one" if self._unsaid else ""
        logger.warning("%s. (Such warnings come once a minute at most%s.)", message, before)
        self._silent_until, self._unsaid = time.monotonic() + SILENCE, 0
