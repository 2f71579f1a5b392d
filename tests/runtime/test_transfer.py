"""Results come to the host when a GPU has them; the copy of a GPU is a stand-in here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast.runtime.transfer import PendingLogits
from tests.tiny import loaded, random_prompt, reference_model


def test_results_are_no_views_of_page_locked_memory() -> None:
    host = torch.zeros(1, 5)

    class Copied:
        def synchronize(self) -> None:
            host.fill_(3)

    event: Any = Copied()
    found = PendingLogits(host, event).wait()
    host.fill_(4)  # the next batch
    assert found.tolist() == [[3] * 5] and found.flags.owndata


@pytest.mark.parametrize(("pooling", "scorer"), [("first", "mlp"), ("pass", "cross-attn")])
def test_embed_does_not_wait_where_others_cannot_launch(
    pooling: str, scorer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU may be given other work while one waits for vectors."""
    options = {"extract_text_features": True, "pooling_strategy": pooling, "scorer_type": scorer}
    ours, wait, within = loaded(reference_model("bert", **options)).loaded, PendingLogits.wait, list[bool]()

    def waiting(pending: PendingLogits) -> np.ndarray:
        within.append(torch.is_inference_mode_enabled())
        return wait(pending)

    monkeypatch.setattr(PendingLogits, "wait", waiting)
    first, second = ours.embed([random_prompt(20, 2), random_prompt(30, 3)])
    assert within == [False] * 3
    assert first.logits.shape == (1, 2) and second.labels.shape == (3, 32)
    assert all(each.dtype == np.float32 for own in (first, second) for each in own)
