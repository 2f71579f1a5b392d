"""Every example runs as it is, and does what it says."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs an example as a program, and returns what it prints."""

    def run(name: str) -> str:
        monkeypatch.setattr(sys, "argv", [name])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_has_a_test() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in tests for path in EXAMPLES.glob("*.py"))


def test_drop_in(output: Callable[[str], str]) -> None:
    found = output("drop_in.py").splitlines()[1::2]
    assert [line.split()[0] for line in found] == ["space", "music", "banking"]


def test_batch_over_parquet(output: Callable[[str], str]) -> None:
    rows = output("batch_over_parquet.py").splitlines()
    assert rows[0].startswith("3 rows in ")
    for row, label in zip(rows[1:4], ("music", "weather", "restaurant"), strict=True):
        assert f"'labels': ['{label}']" in row


@pytest.mark.parametrize("arguments", [["in.parquet"], ["a", "b", "c"]])
def test_batch_over_parquet_says_what_it_takes(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["batch_over_parquet.py", *arguments])
    with pytest.raises(SystemExit, match=r"^usage: .*batch_over_parquet.py \[INPUT OUTPUT\]$"):
        runpy.run_path(str(EXAMPLES / "batch_over_parquet.py"), run_name="__main__")


def test_int8(output: Callable[[str], str]) -> None:
    assert " of 64 decisions differ" in output("int8.py")


def test_the_service_has_a_route_of_its_own() -> None:
    spec = importlib.util.spec_from_file_location("service", EXAMPLES / "fastapi_service.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["service"] = module  # its annotations are looked up there
    spec.loader.exec_module(module)
    wanted = [("Play some jazz.", "music"), ("Will it rain today?", "weather")] * 4
    with TestClient(module.app) as client, ThreadPoolExecutor(8) as clients:
        answers = clients.map(lambda pair: client.post("/topic", json={"text": pair[0]}).json(), wanted)
        assert [answer["topic"] for answer in answers] == [topic for _, topic in wanted]
        assert client.post("/topic", json={"text": 5}).status_code == 422
    del sys.modules["service"]
