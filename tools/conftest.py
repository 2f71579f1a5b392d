"""The option of test_speed.py: with it, the test writes the ratios down."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write the ratios down")
