"""What gets installed: the package list, the demo checkpoint, and a wheel that works."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gliclass_fast import demo

ROOT = Path(__file__).parent.parent


def test_the_package_list_equals_the_folders() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    listed = set(re.findall(r'^    "(gliclass_fast[\w.]*)",$', text, flags=re.MULTILINE))
    folders = {
        ".".join(path.relative_to(ROOT).parts)
        for path in (ROOT / "gliclass_fast").rglob("*")
        if path.is_dir() and "__pycache__" not in path.parts and any(path.glob("*.py"))
    }
    assert listed == folders | {"gliclass_fast", "gliclass_fast.kernels"}


def test_the_demo_checkpoint_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in demo.PATH.iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert sum(files.values()) <= 30_000_000


def test_no_file_is_longer_than_400_lines() -> None:
    for folder in ("gliclass_fast", "kernels", "bench", "tools", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


@pytest.mark.slow
def test_a_wheel_holds_everything_and_runs_outside_the_repository(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        opened.extractall(tmp_path / "site")
    for name in ("kernels/linear.py", "demo/model.safetensors", "demo/tokenizer.json", "py.typed"):
        assert f"gliclass_fast/{name}" in names
    assert not any(name.startswith(("kernels/", "tests/")) for name in names)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import gliclass_fast; "
        "from gliclass_fast import demo, ZeroShotClassificationPipeline as P; print(gliclass_fast.__file__); "
        "print(P(demo.PATH, device='cpu', progress_bar=False)('x', ['a'], threshold=0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
