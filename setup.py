"""Builds the compiled extension where its tools are found; without it the package is plain Python.

GLICLASS_FAST_BUILD=auto (the default) goes without where something is missing or fails, and writes down why
for `gliclass-fast info`; =cuda fails instead; =none does not try.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
REASON = ROOT / "kernels" / "_not_built.txt"
MODE = os.environ.get("GLICLASS_FAST_BUILD", "auto")
ARCHITECTURES = ("80", "86", "89", "90")  # and PTX of the last, for later ones
SOURCES = ["csrc/bindings.cpp", "csrc/cuda/disentangled_attention.cu"]


def find_nvcc() -> Path | None:
    candidates = [os.environ.get("NVCC"), shutil.which("nvcc")]
    candidates += [f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin/nvcc"]
    return next((Path(found).resolve() for found in candidates if found and Path(found).exists()), None)


def missing() -> str | None:
    """Why nothing can be built here."""
    if MODE == "none":
        return "GLICLASS_FAST_BUILD=none"
    if find_nvcc() is None:
        return "nvcc was not found (on PATH, in $CUDA_HOME or as $NVCC)"
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        return "no C++ compiler was found"
    try:
        import pybind11  # noqa: F401
    except ImportError:
        return "pybind11 is not installed"
    return None


class BuildKernels(build_ext):
    """One call of nvcc, which knows where CUDA's headers and libraries are, links its runtime statically."""

    def build_extension(self, extension: Extension) -> None:
        try:
            self._build(extension)
        except Exception as error:
            if MODE != "auto":
                raise
            print(f"gliclass-fast: no compiled kernels: {error}")
            write_reason(f"the build failed: {error}")

    def _build(self, extension: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [str(find_nvcc()), "-shared", "-std=c++17", "-O3", "-lineinfo", "--threads=0"]
        command += [
            "-Xcompiler=-fPIC,-fvisibility=hidden",
            f'-DCUDA_ARCHITECTURES="{" ".join(ARCHITECTURES)}"',
        ]
        command += [f"-ccbin={compiler}"] if (compiler := os.environ.get("CXX")) else []
        command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
        command += [f"-gencode=arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}"]
        command += [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
        subprocess.run([*command, *extension.sources, "-o", str(target)], check=True, cwd=ROOT)


def write_reason(reason: str | None) -> None:
    """Beside the kernels, where `gliclass-fast info` finds it; a source folder may be read-only."""
    try:
        REASON.unlink(missing_ok=True)
        if reason is not None:
            REASON.write_text(reason + "\n", encoding="utf-8")
    except OSError as error:
        print(f"gliclass-fast: {REASON.name} was not written: {error}")


if MODE not in ("auto", "cuda", "none"):
    raise SystemExit(f"GLICLASS_FAST_BUILD={MODE}: choose auto, cuda or none")
reason = missing()
if reason is not None and MODE == "cuda":
    raise SystemExit(f"GLICLASS_FAST_BUILD=cuda, but {reason}")
write_reason(reason)
compiled = Extension("gliclass_fast.kernels._compiled", SOURCES, optional=MODE == "auto")
setup(ext_modules=[] if reason else [compiled], cmdclass={"build_ext": BuildKernels})
