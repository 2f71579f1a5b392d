"""docs/serving.md: its requests run against the real service, and its tables are complete."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from gliclass_fast.cli.app import app
from gliclass_fast.serving.app import ERRORS, create_app
from gliclass_fast.serving.config_keys import EFFECTS, WITHOUT_EFFECT
from gliclass_fast.serving.formats import ClassifyBody
from gliclass_fast.serving.metrics import Metrics
from gliclass_fast.serving.settings import ServeSettings
from tests.serving.running import running

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(create_app(ServeSettings(device="cpu"))) as address:
        yield address


def blocks(language: str, url: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [block.replace("http://localhost:8000", url) for block in found]


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def names(text: str, pattern: str = r"`([\w{},]+)`") -> set[str]:
    """What stands in the first column of the tables of a text."""
    cells = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(pattern, cell)}


def test_its_requests_are_answered(url: str) -> None:
    commands = [
        "curl" + command
        for block in blocks("console", url)
        for command in re.split(r"^curl", block, flags=re.MULTILINE)[1:]
    ]
    assert len(commands) == 5
    answers = []
    for command in commands:
        silent = ["bash", "-c", f"{command.rstrip()} --silent --show-error --fail"]
        done = subprocess.run(silent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    [shown] = re.findall(r'^\{"results": (.*), "info"', section("Ask it"), re.MULTILINE)
    results = answers[0]["results"]
    assert [[{**each, "score": round(each["score"], 2)} for each in own] for own in results] == json.loads(
        shown
    )


def test_its_programs_run(url: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks("py", url):
            exec(compile(block, "serving.md", "exec"), {})
    assert [line.count("'music'") for line in printed.getvalue().splitlines()] == [1, 1, 1]


def test_its_tables_are_complete() -> None:
    keys = section("What to set").split("every other option", 1)[1]
    assert names(keys) == {*EFFECTS, *WITHOUT_EFFECT}
    for key, text in EFFECTS.items():
        assert f"| `{key}` | {text} |" in keys
    for reason in WITHOUT_EFFECT.values():
        assert f" | {reason} |" in keys
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {option for item in commands["serve"].params for option in item.opts if option.startswith("--")}
    own = section("What to set").split("every other option", 1)[0]
    assert names(own, r"(--[a-z][a-z-]+)") == options
    metrics = {name.split("{")[0] for name in names(section("Metrics"))}
    labels = {
        each._name: each._labelnames for each in vars(Metrics()).values() if hasattr(each, "_labelnames")
    }
    for name, given in re.findall(r"`(gliclass_\w+)(?:\{([\w,]+)\})?`", section("Metrics").split("\n\n")[1]):
        assert labels[name.removesuffix("_total")] == tuple(given.split(",") if given else ()), name
    exposed = set(re.findall(r"^# TYPE (\w+) ", Metrics().exposition().decode(), re.MULTILINE))
    assert metrics == {name for name in exposed if not name.endswith("_created")}
    assert set(ERRORS) <= {int(status) for status in names(section("Errors"), r"(\d{3})")}
    fields = names(section("Ask it").split("The other routes", 1)[0])
    assert fields == set(ClassifyBody.model_fields)
