"""Links, pipes and terminals: each is what it is, whatever its name and the environment say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gliclass_fast.cli import lock
from tests.cli.test_cli import run as command
from tests.cli.test_rows import OPTIONS, read, run

WITHOUT_LABELS = ["classify", "-", "--device", "cpu"]


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "gliclass_fast", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=300, **options)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_an_output_is_written_where_its_link_leads(suffix: str, tmp_path: Path) -> None:
    target, link, ahead = (tmp_path / f"{name}{suffix}" for name in ("target", "link", "ahead"))
    link.symlink_to(target)
    ahead.symlink_to(tmp_path / f"made{suffix}")
    assert run("one", "--output", str(target)).exit_code == 0
    for output in (link, ahead):
        assert run("two", "--output", str(output)).exit_code == 0 and output.is_symlink()
        assert [row["text"] for row in read(output.resolve())] == ["two"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_link_that_leads_to_itself_is_refused(suffix: str, tmp_path: Path) -> None:
    loop = tmp_path / f"loop{suffix}"
    loop.symlink_to(loop)
    for line in (["classify", "a", *OPTIONS], ["batch", str(tmp_path / "in.txt"), *OPTIONS]):
        result = command(*line, "--output", str(loop))
        assert result.exit_code == 2 and "is a link that leads to itself" in " ".join(result.stderr.split())
    assert loop.is_symlink()
    with pytest.raises(ValueError, match="there is no folder"):
        lock.check_place(tmp_path / "none" / "out.jsonl")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_no_output(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "out.jsonl")
    result = run("a", "--output", str(pipe))
    assert result.exit_code == 2 and "is a pipe or a device" in " ".join(result.stderr.split())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="standard input has no name")
@pytest.mark.parametrize("option", ["--labels-file", "--examples"])
def test_standard_input_is_read_once(option: str) -> None:
    labels = [] if option == "--labels-file" else ["--labels", "music"]
    done = process(*WITHOUT_LABELS, *labels, option, "/dev/stdin", input='["music", "weather"]\n')
    assert done.returncode == 2 and f"{option} /dev/stdin is standard input" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_colours_are_no_terminal() -> None:
    done = process("classify", "Play jazz", *OPTIONS, env={**os.environ, "FORCE_COLOR": "1"})
    assert done.returncode == 0 and done.stdout.startswith('{"text": "Play jazz"')


@pytest.mark.slow
def test_who_reads_a_part_of_the_help_has_seen_enough() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "gliclass_fast", "classify", "--help"]
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["unicode_escape", "raw_unicode_escape"])
def test_a_line_that_an_escape_spoils_is_named(encoding: str, tmp_path: Path) -> None:
    (path := tmp_path / "in.txt").write_bytes(b"abc\nde\\u12\n")
    result = run(str(path), "--encoding", encoding)
    assert result.exit_code == 2
    assert f"in.txt, line 2 is not {encoding} text" in " ".join(result.stderr.split())
