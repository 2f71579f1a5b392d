"""Builds the compiled extension where its tools are found; without it the package is plain Python.

It has two parts: kernels for CPUs (needs GCC) and for GPUs (nvcc as well).
GLICLASS_FAST_BUILD=auto (the default) goes without a part whose tools are missing or fail, and writes down
why for `gliclass-fast info`; =cpu wants the first and leaves the second, =cuda wants both, and they fail
instead; =none does not try. CXX, NVCC, CUDA_HOME, CXXFLAGS and LDFLAGS are respected, ninja is used where it
is found.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
WANTED = {"auto": ("cpu", "cuda"), "cpu": ("cpu",), "cuda": ("cpu", "cuda"), "none": ()}
MODE = os.environ.get("GLICLASS_FAST_BUILD", "auto")
GPUS = ("80", "86", "89", "90")  # and PTX of the last, for later ones
INSTRUCTION_SETS = {"portable": ""}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS |= {"avx2": "-mavx2 -mfma", "avx512": "-mavx512f -mavx512vl -mavx512dq -mavx512bw -mfma"}


def find_compiler() -> str | None:
    """GCC, whose OpenMP is the one PyTorch loads; Clang's is not."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["c++", "g++"]
    return next((found for name in names if (found := shutil.which(name)) and is_gcc(found)), None)


def is_gcc(compiler: str) -> bool:
    command = [compiler, "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return "__GNUC__" in macros and "__clang__" not in macros


def find_nvcc() -> str | None:
    candidates = [os.environ.get("NVCC"), shutil.which("nvcc")]
    candidates += [f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin/nvcc"]
    return next((str(Path(found).resolve()) for found in candidates if found and Path(found).exists()), None)


def missing() -> dict[str, str]:
    """Why a part cannot be built here, or shall not be."""
    reasons = {part: f"GLICLASS_FAST_BUILD={MODE}" for part in ("cpu", "cuda") if part not in WANTED[MODE]}
    for part in WANTED[MODE]:
        if find_compiler() is None:
            reasons[part] = "GCC was not found (on PATH or as $CXX)"
        elif part == "cuda" and find_nvcc() is None:
            reasons[part] = "nvcc was not found (on PATH, in $CUDA_HOME or as $NVCC)"
    try:
        import pybind11  # noqa: F401
    except ImportError:
        reasons |= dict.fromkeys(WANTED[MODE], "pybind11 is not installed")
    return reasons


class BuildKernels(build_ext):
    """An object per source and instruction set, nvcc's for all GPUs; CUDA's runtime is linked statically."""

    def build_extension(self, extension: Extension) -> None:
        reasons, target = missing(), Path(self.get_ext_fullpath(extension.name))
        while parts := [part for part in WANTED[MODE] if part not in reasons]:
            try:
                self.compile(target, parts)
                break
            except subprocess.CalledProcessError as error:
                if MODE != "auto":
                    raise
                print(f"gliclass-fast: no compiled kernels for {parts[-1]}: {error}")
                reasons[parts[-1]] = "the build failed; `pip install --verbose` shows how"
        for folder in {target.parent, ROOT / "kernels"}:
            write_note(reasons, folder)

    def compile(self, target: Path, parts: list[str]) -> None:
        import pybind11

        compiler, nvcc = find_compiler(), find_nvcc()
        folder = Path(self.build_temp).resolve()
        for place in (folder, target.parent):
            place.mkdir(parents=True, exist_ok=True)
        flags = f"-std=gnu++17 -O3 -fPIC -fvisibility=hidden {os.environ.get('CXXFLAGS', '')}"
        headers = f"-I{pybind11.get_include()} -I{sysconfig.get_path('include')}"
        gpu = "cuda" in parts
        if gpu:
            headers += f" -DWITH_CUDA -DCUDA_ARCHITECTURES='\"{' '.join(GPUS)}\"'"
        # object -> (source, command that makes it)
        steps = {
            folder / "bindings.o": ("csrc/bindings.cpp", f"{compiler} {flags} {headers}"),
            folder / "instruction_sets.o": ("csrc/cpu/instruction_sets.cpp", f"{compiler} {flags}"),
        }
        for name, options in INSTRUCTION_SETS.items():
            command = f"{compiler} {flags} -fopenmp -DISA={name} {options}"
            steps[folder / f"attention_{name}.o"] = ("csrc/cpu/attention.cpp", command)
        if gpu:
            command = f"{nvcc} -ccbin={compiler} -std=c++17 -O3 -lineinfo --threads=0"
            command += " -Xcompiler=-fPIC,-fvisibility=hidden"
            command += "".join(f" -gencode=arch=compute_{a},code=sm_{a}" for a in GPUS)
            command += f" -gencode=arch=compute_{GPUS[-1]},code=compute_{GPUS[-1]}"
            steps[folder / "disentangled_attention.o"] = ("csrc/cuda/disentangled_attention.cu", command)
        # OpenMP is not linked: its symbols are those of the runtime torch has loaded, and its threads
        linker = f"{nvcc} -ccbin={compiler}" if gpu else str(compiler)
        extra = os.environ.get("LDFLAGS", "")
        link = f"{linker} -shared {extra} {' '.join(map(str, steps))} -o {target}"
        run(
            folder,
            {
                made: f"{command} -MD -MF {made}.d -c {source} -o {made}"
                for made, (source, command) in steps.items()
            },
        )
        subprocess.run(shlex.split(link), check=True, cwd=ROOT)


def run(folder: Path, commands: dict[Path, str]) -> None:
    """Runs the command of every object; with ninja only of those whose source or headers have changed."""
    if (ninja := shutil.which("ninja")) is None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(
                pool.map(
                    lambda command: subprocess.run(shlex.split(command), check=True, cwd=ROOT),
                    commands.values(),
                )
            )
        return
    rule = f"builddir = {folder}\nrule make\n  command = $make\n  deps = gcc\n  depfile = $out.d\n"
    builds = (f"build {made}: make\n  make = {command}\n" for made, command in commands.items())
    (folder / "build.ninja").write_text(rule + "".join(builds), encoding="utf-8")
    subprocess.run([ninja, "--quiet", "-f", str(folder / "build.ninja")], check=True, cwd=ROOT)


def write_note(reasons: dict[str, str], folder: Path = ROOT / "kernels") -> None:
    """Beside the kernels, where `gliclass-fast info` finds it; a source folder may be read-only."""
    note = folder / "_not_built.txt"
    try:
        note.unlink(missing_ok=True)
        if reasons:
            lines = (f"{part}: {reason}\n" for part, reason in reasons.items())
            note.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        print(f"gliclass-fast: {note} was not written: {error}")


if MODE not in WANTED:
    raise SystemExit(f"GLICLASS_FAST_BUILD={MODE}: choose {', '.join(WANTED)}")
reasons = missing()
if MODE in ("cpu", "cuda") and (wanting := [reasons[part] for part in WANTED[MODE] if part in reasons]):
    raise SystemExit(f"GLICLASS_FAST_BUILD={MODE}, but {wanting[0]}")
write_note(reasons)
compiled = Extension("gliclass_fast.kernels._compiled", ["csrc/bindings.cpp"], optional=MODE == "auto")
buildable = any(part not in reasons for part in WANTED[MODE])
setup(ext_modules=[compiled] if buildable else [], cmdclass={"build_ext": BuildKernels})
