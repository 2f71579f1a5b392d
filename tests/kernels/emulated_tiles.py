"""Linear maps that round, compiled for tiles of AMX that csrc/emulator has, which run on every processor."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from gliclass_fast.kernels._extension import extension

LANES = 16
CPU = Path(__file__).parents[2] / "csrc" / "cpu"
SOURCES = [CPU / f"{name}.cpp" for name in ("int8", "bfloat16", "parallel", "workspace")]


class RoundedLinear(ctypes.Structure):
    """These are the fields of csrc/cpu/rounded_linear.h."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("x_stride", ctypes.c_ssize_t),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "residual", "out", "values", "ranges")),
        *((name, ctypes.c_int) for name in ("rows", "depth", "width", "norm")),
        ("eps", ctypes.c_float),
        ("activation", ctypes.c_int),
        ("gated", ctypes.c_bool),
        ("threads", ctypes.c_int),
    ]


class Extension:
    """The compiled extension, with the emulated maps whatever the number of the instruction set."""

    RoundedLinear = RoundedLinear

    def __init__(self, library: ctypes.CDLL, real: Any) -> None:
        self.library, self.real = library, real
        for name in ("adds_pairs", "has_tiles"):
            getattr(library, name).restype = ctypes.c_bool

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def int8_adds_pairs(self, number: int) -> bool:
        return bool(self.library.adds_pairs())

    def linear_int8_cpu(self, number: int, arguments: RoundedLinear) -> None:
        self._run(self.library.linear_int8, arguments)

    def linear_bfloat16_cpu(self, number: int, arguments: RoundedLinear) -> None:
        self._run(self.library.linear_bfloat16, arguments)

    def _run(self, kernel: Any, arguments: RoundedLinear) -> None:
        kernel(ctypes.byref(arguments))
        assert not self.library.has_tiles(), "a thread that keeps tiles has more to save"


@cache
def emulated() -> Extension:
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "tiles.so"
        command = ["g++", "-std=gnu++17", "-O2", "-shared", "-fPIC", "-pthread", "-Wno-psabi"]
        command += ["-DISA=amx", "-DWITH_TILES", "-DEMULATED_TILES", f"-I{CPU}", *map(str, SOURCES)]
        command += [str(Path(__file__).with_name("tiles.cpp")), "-o", str(built)]
        subprocess.run(command, check=True, timeout=300)
        library = ctypes.CDLL(str(built))
    assert ctypes.c_int.in_dll(library, "size_of_arguments").value == ctypes.sizeof(RoundedLinear)
    return Extension(library, extension())
