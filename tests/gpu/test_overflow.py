"""What overflows float16 runs again on a GPU too, where neighbours share tiles and graphs keep memory."""

from __future__ import annotations

import pytest

from tests.engine import test_overflow


@pytest.mark.parametrize("kind", test_overflow.KINDS)
def test_only_what_overflows_runs_again(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    test_overflow.check_scores(kind, caplog, "cuda")
