"""The one accuracy rule of the suite, and the end-to-end bounds of a float32 engine against the reference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LOGIT_TOLERANCE = 1e-4  # float32, relative to max(1, |reference|)
DECISION_MARGIN = 2e-3  # 16-bit decisions have to agree where the float32 score is further than this from 0.5
ALONE_TOLERANCE = 1e-5  # a text's score alone against its score in a batch


def assert_accurate(out: Tensor, exact: Tensor, low: Tensor) -> None:
    """max|out - exact| <= 2 max|low - exact| + eps max|exact|.

    exact: the reference in float64; low: the reference in the working dtype.
    """
    eps = torch.finfo(out.dtype).eps
    error = (out.double() - exact).abs().max()
    allowed = 2 * (low.double() - exact).abs().max() + eps * exact.abs().max()
    assert error <= allowed, f"error {error:.3e} > allowed {allowed:.3e}"


def assert_same_logits(found: np.ndarray, expected: np.ndarray) -> None:
    """Logits within LOGIT_TOLERANCE, and the same decisions at 0 and by argmax."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    assert error.max() <= LOGIT_TOLERANCE, f"logit error {error.max():.3e}"
    assert ((found >= 0) == (expected >= 0)).all()
    assert found.argmax() == expected.argmax()


def assert_sixteen_bit_logits(
    found: list[np.ndarray], exact: list[np.ndarray], low: list[np.ndarray]
) -> tuple[float, float]:
    """Error against the float32 reference at most twice the reference's own in 16 bit; equal clear decisions.

    Lists hold one array of logits per text. Returns (our error, the reference's error), the largest over all.
    """
    ours, truth, theirs = (np.concatenate(part).astype(np.float64) for part in (found, exact, low))
    error, allowed = np.abs(ours - truth).max(), np.abs(theirs - truth).max()
    assert error <= 2 * allowed, f"16-bit error {error:.3e} > twice the reference's {allowed:.3e}"
    clear = np.abs(1 / (1 + np.exp(-truth)) - 0.5) > DECISION_MARGIN
    differ = clear & ((ours >= 0) != (truth >= 0))
    assert not differ.any(), f"{differ.sum()} clear decisions differ"
    return float(error), float(allowed)
