"""Every example runs as it is, and does what it says."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def output(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # the package that is tested, installed or not
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_a_test() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in tests for path in EXAMPLES.glob("*.py"))


def test_drop_in() -> None:
    found = output("drop_in.py").splitlines()[1::2]
    assert [line.split()[0] for line in found] == ["space", "music", "banking"]


def test_batch_over_parquet() -> None:
    rows = output("batch_over_parquet.py").splitlines()
    assert rows[0].startswith("3 rows in ")
    for row, label in zip(rows[1:4], ("music", "weather", "restaurant"), strict=True):
        assert f"'labels': ['{label}']" in row


def test_int8() -> None:
    assert " of 64 decisions differ" in output("int8.py")


@pytest.fixture
def service() -> Any:
    pytest.importorskip("fastapi")
    spec = importlib.util.spec_from_file_location("service", EXAMPLES / "fastapi_service.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["service"] = module  # its annotations are looked up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["service"]


def test_the_service_answers_requests_with_labels_of_their_own(service: Any) -> None:
    from fastapi.testclient import TestClient

    wanted = [("Play some jazz.", ["music", "weather"]), ("Will it rain today?", ["sports", "weather"])] * 4
    with TestClient(service.app) as client, ThreadPoolExecutor(8) as clients:

        def ask(pair: tuple[str, list[str]]) -> Any:
            return client.post("/classify", json={"text": pair[0], "labels": pair[1]}).json()

        answers = list(clients.map(ask, wanted))
        too_many = {"text": "x", "labels": ["a long label " * 30] * 40}
        assert client.post("/classify", json=too_many).status_code == 422
        assert client.post("/classify", json={"text": "x", "labels": []}).status_code == 422
    assert [max(found, key=lambda each: each["score"])["label"] for found in answers] == [
        "music",
        "weather",
    ] * 4
