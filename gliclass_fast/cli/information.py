"""What info prints: versions, the device, and which implementation of every operation runs and why."""

from __future__ import annotations

import platform

import torch
import transformers
from rich.table import Table

from gliclass_fast import __version__
from gliclass_fast.checkpoint.files import read_json, resolve_folder
from gliclass_fast.cli.console import screen
from gliclass_fast.cli.device import usable
from gliclass_fast.cli.tables import table
from gliclass_fast.models.configuration import read_config
from gliclass_fast.ops import IMPLEMENTATIONS, ORDER, choose_ops, compiled_kernels, unavailable_reason

# what rounded products are fast with: names of torch.cpu.get_capabilities
_ROUNDED_INSTRUCTIONS = {
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AVX512_BF16": ("avx512_bf16",),
    "AMX": ("amx_int8",),
}


def info(device: str | None, model: str | None) -> None:
    """Prints two tables; ValueError for an unknown device or a checkpoint that is not there."""
    kind = usable(device).type
    width = (
        None if model is None else read_config(read_json(resolve_folder(model))).backbone_config.head_width
    )
    screen.print(_facts(kind))
    screen.print(_operations(kind, width))


def _facts(kind: str) -> Table:
    name = torch.cuda.get_device_name() if kind == "cuda" else platform.processor() or platform.machine()
    facts = {
        "gliclass-fast": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": f"{kind} ({name})",
        "instructions of the CPU": _instructions(),
        "threads": str(torch.get_num_threads()),
        **{f"compiled for {part}": description for part, description in compiled_kernels().items()},
    }
    return table(["", ""], facts.items(), show_header=False)


def _instructions() -> str:
    """Names the vector instructions that torch uses, and those that int8 and bfloat16 are fast with."""
    found = [torch.backends.cpu.get_cpu_capability()]
    if not hasattr(torch.cpu, "get_capabilities"):
        return found[0]
    known = torch.cpu.get_capabilities()
    for name, flags in _ROUNDED_INSTRUCTIONS.items():
        found.append(f"{name}: {'yes' if any(known.get(flag) for flag in flags) else 'no'}")
    return ", ".join(found)


def _operations(kind: str, width: int | None) -> Table:
    rows = []
    dtype = torch.float16 if kind == "cuda" else torch.float32
    for operation, chosen in choose_ops(kind, dtype, head_width=width).chosen.items():
        order = [backend for backend in ORDER[kind] if backend in IMPLEMENTATIONS[operation]]
        reasons = [
            f"{backend}: {unavailable_reason(backend, kind, dtype, width)}"
            for backend in order[: order.index(chosen)]
        ]
        first = "the only one" if len(order) == 1 else f"first choice of {', '.join(order)}"
        rows.append([operation, chosen, "; ".join(reasons) or first])
    return table(["operation", "runs", "why"], rows, title=f"operations on {kind}")
