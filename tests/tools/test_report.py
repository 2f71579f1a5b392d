"""The figures in the README and on the demo's card are those of the committed results."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.report import PAGES, rendered


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_the_page_matches_the_results(page: Path) -> None:
    assert rendered(page) == page.read_text(encoding="utf-8")
