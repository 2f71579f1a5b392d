"""What overflows float16 on a GPU, where kernels of neighbours share tiles and graphs keep memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine import test_overflow


@pytest.mark.parametrize("kind", test_overflow.KINDS)
def test_only_what_overflows_runs_again(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    test_overflow.check_scores(test_overflow.quiet(kind, tmp_path, "cuda"), caplog)
