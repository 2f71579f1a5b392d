"""These are the accuracy rules of the suite; no test types a tolerance of its own where one of them fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

LOGIT_TOLERANCE = 1e-4  # float32, relative to max(1, |reference|); scores are no steeper than logits
DECISION_MARGIN = 2e-3  # 16-bit decisions have to agree where the float32 score is further than this from 0.5
ALONE_TOLERANCE = 1e-5  # a text's score alone against its score in a batch


def assert_accurate(out: Tensor, exact: Tensor, low: Tensor) -> None:
    """The error max|out - exact| is at most 2 max|low - exact| + eps max|exact|.

    exact: the reference in float64; low: the reference in the working dtype.
    """
    eps = torch.finfo(out.dtype).eps
    error = (out.double() - exact).abs().max()
    allowed = 2 * (low.double() - exact).abs().max() + eps * exact.abs().max()
    assert error <= allowed, f"error {error:.3e} > allowed {allowed:.3e}"


def assert_same_logits(found: np.ndarray, expected: np.ndarray) -> None:
    """Logits are within LOGIT_TOLERANCE, and the decisions at 0 and by argmax are the same."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    assert error.max() <= LOGIT_TOLERANCE, f"logit error {error.max():.3e}"
    assert ((found >= 0) == (expected >= 0)).all()
    assert found.argmax() == expected.argmax()


def assert_same_vectors(found: np.ndarray, expected: np.ndarray) -> None:
    """Embeddings are within LOGIT_TOLERANCE of the largest value, or of 1 where that is larger."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= LOGIT_TOLERANCE * max(1, np.abs(expected).max())


def assert_sixteen_bit_logits(
    found: Sequence[np.ndarray], exact: Sequence[np.ndarray], low: Sequence[np.ndarray]
) -> None:
    """The error against the float32 reference is at most twice the reference's own in 16 bit.

    Decisions that are clear in float32 are the same. Every argument holds one array of logits per text.
    """
    ours, truth, theirs = (np.concatenate(part).astype(np.float64) for part in (found, exact, low))
    error, allowed = np.abs(ours - truth).max(), np.abs(theirs - truth).max()
    assert error <= 2 * allowed, f"16-bit error {error:.3e} > twice the reference's {allowed:.3e}"
    clear = np.abs(sigmoid(truth) - 0.5) > DECISION_MARGIN
    differ = clear & ((ours >= 0) != (truth >= 0))
    assert not differ.any(), f"{differ.sum()} clear decisions differ"


def assert_unchanged(found: Any, expected: Any) -> None:
    """Logits, scores or vectors of the same text in another batch are within ALONE_TOLERANCE."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0) <= ALONE_TOLERANCE


def assert_same_results(found: Any, expected: Any, within: float = LOGIT_TOLERANCE) -> None:
    """Nested results have equal keys, labels and order, and scores within a tolerance of above."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same_results(found[key], expected[key], within)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert_same_results(ours, theirs, within)
    elif isinstance(expected, float):
        assert abs(found - expected) <= within
    else:
        assert found == expected


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.astype(np.float64)))
