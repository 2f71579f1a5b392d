"""The tables of README, docs and the demo's card are those of the committed results and of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.report import PAGES, ROOT, rendered


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_page_matches_the_results(page: Path) -> None:
    assert rendered(page) == page.read_text(encoding="utf-8")
