"""Scored: what becomes of one request on its way through the engine, from its prompts to its answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.runtime.loaded import LoadedNetwork
from gliclass_fast.runtime.transfer import PendingLogits
from gliclass_fast.text.prompts import Request


@dataclass(slots=True, eq=False)
class Row:
    """Holds one pass of a request: what is read together, and its logits once they are there."""

    index: int  # the place of its request in the call
    request: Request
    prompt: EncodedPrompt
    # float32 [1, labels], or [2, labels] with the uncalibrated ones second; None where one is not finite
    logits: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """Holds the answer to one request."""

    logits: np.ndarray  # float32 [1, labels], or [2, labels] with the uncalibrated ones second
    tokens: int  # tokens that ran, over all passes
    tokens_cut: int  # tokens of the text that the window left no room for, in the pass that lost most
    passes: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """Holds one request, read: its passes and their prompts, which say what it costs before anything runs."""

    passes: list[Request]
    prompts: list[EncodedPrompt]
    # the network that they were read for, whose label vectors some prompts hold
    loaded: LoadedNetwork

    @property
    def cost(self) -> int:
        """Returns the tokens of a batch's budget that it takes."""
        return sum(prompt.cost for prompt in self.prompts)

    @property
    def tokens_cut(self) -> int:
        """Returns the tokens of the text that the window has no room for, in the pass that loses most."""
        return max(prompt.tokens_cut for prompt in self.prompts)


Launched = list[tuple[list[Row], PendingLogits]]  # batches that a device was given
