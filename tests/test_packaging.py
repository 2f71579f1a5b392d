"""The package list is complete, the demo checkpoint is in it, and the wheel works."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from gliclass_fast import demo
from gliclass_fast.cli.console import EXTRAS

ROOT = Path(__file__).parent.parent


def test_the_package_list_equals_the_folders() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    packages = text.split("\npackages = [\n", 1)[1].split("]", 1)[0]
    listed = set(re.findall(r'"(gliclass_fast[\w.]*)"', packages))
    folders = {
        ".".join(Path(folder).relative_to(ROOT).parts)
        for folder, _, files in os.walk(ROOT / "gliclass_fast", followlinks=True)
        if any(name.endswith(".py") for name in files)
    }
    assert listed == folders


def test_commands_know_what_installs_a_library() -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    modules = {
        "opentelemetry-api": "opentelemetry",
        "prometheus-client": "prometheus_client",
        "pyyaml": "yaml",
    }
    others = {"gliclass-fast", "typer", "rich", "httpx2"}  # nothing starts without two; the client names one
    for extra in ("cli", "data", "serve", "ray"):
        names = {re.split(r"[\[>]", requirement)[0] for requirement in extras[extra]} - others
        assert names and {EXTRAS[modules.get(name, name)] for name in names} == {extra}


def test_the_demo_checkpoint_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in demo.PATH.iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert sum(files.values()) <= 30_000_000


def test_no_file_is_longer_than_400_lines() -> None:
    for folder in ("gliclass_fast", "kernels", "bench", "tools", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


# what decides how fast kernels are has its test with the whole wheel
UNOPTIMISED = {"CXXFLAGS": "-O0"}


def wheel(source: Path, tmp_path: Path, *options: str, **environment: str) -> tuple[Path, list[str]]:
    """Builds a wheel of a folder or an archive by pip, unpacks it into "site"; gives its file and names."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(tmp_path), *options]
    done = subprocess.run(
        [*build, str(source)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(file) as opened:
        opened.extractall(tmp_path / "site")
        return file, opened.namelist()


def seconds_of_children() -> float:
    """Gives the processor's time, which does not depend on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_in(site: Path, program: str) -> str:
    program = f"import sys; sys.path.insert(0, {str(site)!r}); {program}"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=site)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.nightly
@pytest.mark.slow
def test_a_source_distribution_gives_a_wheel_that_runs_outside_the_repository(
    tmp_path: Path, source_copy: Path
) -> None:
    """The wheel is built in an isolated environment, compiled kernels included."""
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(source_copy)], check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = [name.split("/", 1)[-1] for name in opened.getnames()]
    assert {"csrc/cuda/primitives.cuh", "csrc/bindings.cpp", "setup.py"} <= set(names)
    assert not any(name.endswith((".so", "_not_built.txt")) for name in names)
    before = seconds_of_children()
    file, names = wheel(archive, tmp_path)
    assert seconds_of_children() - before < 120
    assert file.name.endswith("linux_x86_64.whl")
    assert any(re.fullmatch(r"gliclass_fast/kernels/_compiled\..*so", name) for name in names)
    for name in ("kernels/linear.py", "demo/model.safetensors", "demo/tokenizer.json", "py.typed"):
        assert f"gliclass_fast/{name}" in names
    assert not any(name.startswith(("kernels/", "tests/", "csrc/")) for name in names)
    printed = run_in(
        tmp_path / "site",
        "import gliclass_fast; from gliclass_fast import demo, ops, ZeroShotClassificationPipeline as P; "
        "print(gliclass_fast.__file__, ops.compiled_kernels()); "
        "print(P(demo.PATH, device='cpu', progress_bar=False)('x', ['a'], threshold=0))",
    )
    assert str(tmp_path / "site") in printed and "sm_90" in printed


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("case", ["none", "no compiler"])
def test_a_wheel_without_compiled_kernels_says_why(case: str, tmp_path: Path, source_copy: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.touch(mode=0o755)
    environment, reason = {
        "none": ({"GLICLASS_FAST_BUILD": "none"}, "GLICLASS_FAST_BUILD=none"),
        "no compiler": ({"PATH": "", "NVCC": str(nvcc)}, "GCC was not found"),
    }[case]
    file, _ = wheel(source_copy, tmp_path, "--no-build-isolation", **environment)
    assert file.name.endswith("py3-none-any.whl")
    printed = run_in(tmp_path / "site", "from gliclass_fast import ops; print(ops.compiled_kernels())")
    assert printed.count(reason) == 2


@pytest.mark.slow
@pytest.mark.nightly
def test_a_wheel_without_nvcc_has_the_cpu_kernels(tmp_path: Path, source_copy: Path) -> None:
    """Only a compiler is on the PATH, and no ninja either."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("c++", "as", "ld"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    nowhere = {"PATH": str(tools), "CUDA_HOME": str(tmp_path), **UNOPTIMISED}
    wheel(source_copy, tmp_path, "--no-build-isolation", **nowhere)
    printed = run_in(
        tmp_path / "site",
        "from gliclass_fast import ops; print(ops.compiled_kernels(), ops.choose_ops('cpu').chosen)",
    )
    assert "'CUDA': 'compiled kernels were not built: nvcc was not found" in printed
    assert "portable (the first is used)" in printed and "'attention': 'cpp'" in printed


@pytest.mark.slow
@pytest.mark.nightly
def test_a_part_that_does_not_compile_is_left_out(tmp_path: Path, source_copy: Path) -> None:
    with (source_copy / "csrc" / "cuda" / "primitives.cuh").open("a") as file:
        file.write("#error no such luck\n")
    wheel(source_copy, tmp_path, "--no-build-isolation", **UNOPTIMISED)
    printed = run_in(tmp_path / "site", "from gliclass_fast import ops; print(ops.compiled_kernels())")
    assert "'CUDA': 'compiled kernels were not built: the build failed" in printed
    assert "portable (the first is used)" in printed


@pytest.mark.slow
def test_asking_for_cuda_without_nvcc_fails(tmp_path: Path, source_copy: Path) -> None:
    nowhere = {"PATH": "", "CXX": str(shutil.which("c++")), "CUDA_HOME": str(tmp_path)}
    environment = {**os.environ, **nowhere, "GLICLASS_FAST_BUILD": "cuda"}
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=source_copy, env=environment
    )
    assert done.returncode != 0 and "nvcc was not found" in done.stderr
