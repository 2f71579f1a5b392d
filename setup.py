"""The build of the compiled extension, where its tools are found: without it the package is plain Python.

It has two parts: kernels for CPUs, which need GCC, and kernels for GPUs, which need nvcc as well.
GLICLASS_FAST_BUILD=auto (the default) goes without a part whose tools are missing or fail, and writes down
why for `gliclass-fast info`. =cpu wants the first part and leaves the second, =cuda wants both, and they fail
instead. =none does not try. CXX, NVCC, CUDA_HOME, CXXFLAGS and LDFLAGS are respected, and ninja is used where
it is found.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
WANTED = {"auto": ("cpu", "cuda"), "cpu": ("cpu",), "cuda": ("cpu", "cuda"), "none": ()}
MODE = os.environ.get("GLICLASS_FAST_BUILD", "auto")
BUILDING = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}
GPUS = ("80", "86", "89", "90")  # Later ones take the PTX of the last.
KERNELS = ("attention", "linear", "norm", "pairs", "tables", "int8", "bfloat16")
# These sets have instructions for these kernels alone.
ALONE = {
    "avxvnni": ("int8",),
    "avx512vnni": ("int8",),
    "avx512bf16": ("attention", "bfloat16"),
    "amx": ("int8", "bfloat16"),
}
INSTRUCTION_SETS: dict[str, list[str]] = {"portable": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = ["-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw"]
    INSTRUCTION_SETS["avxvnni"] = [*INSTRUCTION_SETS["avx2"], "-mavxvnni"]
    INSTRUCTION_SETS["avx512vnni"] = [*INSTRUCTION_SETS["avx512"], "-mavx512vnni"]
    INSTRUCTION_SETS["avx512bf16"] = [*INSTRUCTION_SETS["avx512"], "-mavx512bf16"]
    if platform.system() == "Linux":  # which is asked for the registers
        tiles = ["-mavx512vnni", "-mamx-tile", "-mamx-int8", "-mamx-bf16", "-DWITH_TILES"]
        INSTRUCTION_SETS["amx"] = [*INSTRUCTION_SETS["avx512bf16"], *tiles]


def find_compiler() -> str | None:
    """Returns GCC, whose vectors and attributes the kernels are written with."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["c++", "g++"]
    return next((found for name in names if (found := shutil.which(name)) and is_gcc(found)), None)


def is_gcc(compiler: str) -> bool:
    command = [compiler, "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return "__GNUC__" in macros and "__clang__" not in macros


def understands(compiler: str, options: list[str]) -> bool:
    """Tells whether a compiler has these options, as GCC 11 and later do, and its assembler has AMX."""
    source = 'void release() { asm("tilerelease"); }' if "-DWITH_TILES" in options else ""
    command = [compiler, *options, "-c", "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0


def find_nvcc() -> str | None:
    candidates = [os.environ.get("NVCC"), shutil.which("nvcc")]
    candidates += [f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin/nvcc"]
    usable = (found for found in candidates if found and os.access(found, os.X_OK))
    return next((str(Path(found).resolve()) for found in usable), None)


def missing() -> dict[str, str]:
    """Returns why a part cannot be built here, or shall not be."""
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
    """The build makes an object per source and instruction set, and one of nvcc's for all GPUs.

    It links CUDA's runtime statically.
    """

    def build_extension(self, extension: Extension) -> None:
        reasons, target = missing(), Path(self.get_ext_fullpath(extension.name))
        while parts := [part for part in WANTED[MODE] if part not in reasons]:
            try:
                self.compile(target, parts)
                break
            except (subprocess.CalledProcessError, OSError) as error:
                if MODE != "auto":
                    raise
                print(f"gliclass-fast: no compiled kernels for {parts[-1]}: {error}")
                reasons[parts[-1]] = "the build failed; `pip install --verbose` shows how"
        for folder in {target.parent, ROOT / "kernels"}:
            write_note(reasons, folder)

    def compile(self, target: Path, parts: list[str]) -> None:
        import pybind11

        compiler, nvcc = str(find_compiler()), str(find_nvcc())
        folder = Path(self.build_temp).resolve()
        for place in (folder, target.parent):
            place.mkdir(parents=True, exist_ok=True)
        cpp = [compiler, "-std=gnu++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread"]
        cpp += shlex.split(os.environ.get("CXXFLAGS", ""))
        headers = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
        cuda = [nvcc, f"-ccbin={compiler}", "-std=c++17", "-O3", "-lineinfo", "--threads=0"]
        cuda += ["-Xcompiler=-fPIC,-fvisibility=hidden"]
        cuda += [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in GPUS]
        cuda += [f"-gencode=arch=compute_{GPUS[-1]},code=compute_{GPUS[-1]}"]
        flags = shlex.split(os.environ.get("LDFLAGS", ""))
        link = [compiler, "-shared", "-pthread", *flags]
        if "cuda" in parts:
            headers += ["-DWITH_CUDA", f'-DCUDA_ARCHITECTURES="{" ".join(GPUS)}"']
            link = [nvcc, f"-ccbin={compiler}", "-shared"]  # nvcc knows where CUDA's libraries are.
            link += ["-Xcompiler=-pthread"]
            link += ["-Xcompiler=" + flag.replace(",", "\\,") for flag in flags]
        source = ROOT / "csrc"
        # The table maps an object to the command that makes it.
        objects = {
            "bindings.o": [*cpp, *headers, "-c", str(source / "bindings.cpp")],
        }
        shared = ("instruction_sets", "parallel", "workspace", "packed_map")
        for name in (*shared, "feed_forward", "self_attention", "layers", "lora"):
            objects[f"{name}.o"] = [*cpp, "-c", str(source / "cpu" / f"{name}.cpp")]
        sets = {name: options for name, options in INSTRUCTION_SETS.items() if understands(compiler, options)}
        objects["instruction_sets.o"] += [f"-DWITH_{name}" for name in sets]
        for name, options in sets.items():
            command = [*cpp, f"-DISA={name}", *options]
            for kernel in ALONE.get(name, KERNELS):
                objects[f"{kernel}_{name}.o"] = [*command, "-c", str(source / "cpu" / f"{kernel}.cpp")]
        if "cuda" in parts:
            file = source / "cuda" / "disentangled_attention.cu"
            objects["disentangled_attention.o"] = [*cuda, "-c", str(file)]
        run(folder, {made: [*do, "-MD", "-MF", f"{made}.d", "-o", made] for made, do in objects.items()})
        subprocess.run([*link, *objects, "-o", str(target.resolve())], check=True, cwd=folder)


def run(folder: Path, commands: dict[str, list[str]]) -> None:
    """Runs the command of every object; ninja runs only those whose source or headers have changed."""
    if (ninja := shutil.which("ninja")) is None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(partial(subprocess.run, check=True, cwd=folder), commands.values()))
        return
    rules = "rule make\n  command = $make\n  deps = gcc\n  depfile = $out.d\n"
    for made, command in commands.items():
        rules += f"build {made}: make\n  make = {shlex.join(command).replace('$', '$$')}\n"
    (folder / "build.ninja").write_text(rules, encoding="utf-8")
    subprocess.run([ninja, "--quiet"], check=True, cwd=folder)


def write_note(reasons: dict[str, str], folder: Path = ROOT / "kernels") -> None:
    """Writes the reasons beside the kernels for `gliclass-fast info`; a source folder may be read-only."""
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
if BUILDING & set(sys.argv):  # Asking for metadata leaves what is there already as it is.
    write_note(reasons)
compiled = Extension("gliclass_fast.kernels._compiled", ["csrc/bindings.cpp"], optional=MODE == "auto")
buildable = any(part not in reasons for part in WANTED[MODE])
setup(ext_modules=[compiled] if buildable else [], cmdclass={"build_ext": BuildKernels})
