"""Tests of this folder need a CUDA device; without one, a skip stands for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch


class NoDevice(pytest.Item):
    def runtest(self) -> None:
        pytest.skip("no CUDA device")


class NeedsDevice(pytest.Module):
    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        tests = list(super().collect())
        if torch.cuda.is_available():
            return tests
        return [NoDevice.from_parent(self, name=f"{len(tests)} tests")]


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    return NeedsDevice.from_parent(parent, path=module_path)
