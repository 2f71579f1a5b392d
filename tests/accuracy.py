"""The one accuracy rule of the suite, and the end-to-end bounds of a float32 engine against the reference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LOGIT_TOLERANCE = 1e-4  # float32, relative to max(1, |reference|)
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
