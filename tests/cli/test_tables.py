"""What is printed shows all that others wrote, and lets none of it act on a terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gliclass_fast.cli.tables import cell, table, visible, visible_json

ACTING = "\x1b[31m\x1b]52;c;ZWNobw==\x1b\\\x07\x9b2J\u202eabc\u2066\r\x00"


def printed(width: int, text: str) -> str:
    out = io.StringIO()
    made = table(["text", "labels"], [[text, "a"]], title=cell("runs[/v2]"))
    Console(file=out, width=width, force_terminal=True).print(made)
    return out.getvalue()


def test_nothing_acts_on_a_terminal() -> None:
    shown = visible(ACTING)
    assert shown.isprintable() and "\\x1b]52;c;ZWNobw==\\x1b" in shown and "\\u202eabc" in shown
    assert visible("naïve 北京 שלום\tx\ny 👩‍🔬") == "naïve 北京 שלום\tx\ny 👩‍🔬"
    assert cell("a\r\nb").plain == "a\nb"
    line = json.dumps(ACTING, ensure_ascii=False) + "\n"
    assert json.loads(visible_json(line)) == ACTING and visible_json(line)[:-1].isprintable()
    assert "\\x1b[31m" in printed(200, ACTING) and "\x1b[31m" not in printed(200, ACTING)


def test_nothing_is_cut_or_read_as_markup() -> None:
    word = "customer_support/billing/refunds/international_payments_eu"
    lines = [line.split("│")[1].strip() for line in printed(40, word).splitlines() if line.startswith("│")]
    assert "".join(lines) == word
    assert "runs[/v2]" in printed(80, "[red]x") and "[red]x" in printed(80, "[red]x")


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "gliclass_fast", *arguments]
    return subprocess.run(run, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is full")
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_a_full_output_is_one_line_and_code_2(option: str) -> None:
    with open("/dev/full", "w") as full:
        done = command(option, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


@pytest.mark.long
def test_a_mistake_comes_before_tables_and_a_width_of_nothing_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = command("info", "--model", str(tmp_path), **pipes)
    assert (done.returncode, done.stdout) == (2, "") and "config.json" in done.stderr
    done = command("info", env={**os.environ, "COLUMNS": "0", "FORCE_COLOR": "1"}, **pipes)
    assert done.returncode == 0 and "gliclass-fast" in done.stdout
