"""The compiled extension for CPUs with sanitizers, which end a process at a fault."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
COVERAGE = "-fsanitize-coverage=trace-pc,trace-cmp -fno-sanitize=vptr"  # GCC's own library alone has vptr's
_FILLED = "max_malloc_fill_size=1000000000:malloc_fill_byte=255"  # float32 NaN, where nothing was written
COUNTERS = Path(__file__).parent / "counters.cpp"
MODULE = "gliclass_fast.kernels._compiled"


def build(folder: Path, guided: bool = False) -> Path:
    """Compiles the extension in a folder, which takes about a minute, and returns its file.

    guided: whether libFuzzer can see what runs.
    """
    source = folder / "source"
    shutil.copytree(ROOT / "csrc", source / "csrc")
    shutil.copy(ROOT / "setup.py", source)
    command = [sys.executable, "setup.py", "--quiet", "build_ext"]
    command += ["--build-lib", str(folder), "--build-temp", str(folder / "objects")]
    compiled, linked = f"{SANITIZERS} -O1 -g1", SANITIZERS
    if guided:
        counters = str(folder / "counters.o")
        subprocess.run(["g++", "-fPIC", "-c", str(COUNTERS), "-o", counters], check=True)
        compiled, linked = f"{compiled} {COVERAGE}", counters
    environment = {**os.environ, "CXX": "g++", "CXXFLAGS": compiled, "LDFLAGS": linked}
    subprocess.run(command, check=True, cwd=source, env={**environment, "GLICLASS_FAST_BUILD": "cpu"})
    (library,) = folder.glob("gliclass_fast/kernels/_compiled*.so")
    return library


def environment(guided: bool = False) -> dict[str, str]:
    """Returns the environment of a process that loads the extension."""
    find = ["g++", "-print-file-name=libasan.so"]
    preload = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    if guided:  # atheris has AddressSanitizer together with libFuzzer
        found = importlib.util.find_spec("atheris")
        assert found is not None and found.origin is not None, "atheris is not installed"
        preload = str(Path(found.origin).parent.parent / "asan_with_fuzzer.so")
    return {**os.environ, "LD_PRELOAD": preload, "ASAN_OPTIONS": f"detect_leaks=0:{_FILLED}"}


def report(printed: str) -> str:
    """Returns what a sanitizer says first: the kind of fault, and the lines of code that led there."""
    begins = re.search(r"^.*(ERROR: |runtime error: )", printed, re.MULTILINE)
    return printed[begins.start() :][:4000] if begins else printed[-4000:]


def load(library: str) -> None:
    """Puts the extension in the place of the installed one; this comes before all of gliclass_fast."""
    spec = importlib.util.spec_from_file_location(MODULE, library)
    assert spec is not None and spec.loader is not None
    sys.modules[MODULE] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
