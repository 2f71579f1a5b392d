"""What every Triton kernel costs on every GPU generation: it is compiled ahead of time, without a GPU.

    python -m tools.kernel_resources [--output FILE] [--architectures 80,86,89,90] [--brief]

Operations run at the sizes of stock models with a recorder in place of each kernel: what would have been
launched is compiled instead. A row per launch and architecture gives registers per thread, shared memory and
spills in bytes, machine instructions, and how many of them load 16 bytes or multiply on tensor cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from gliclass_fast.ops import IMPLEMENTATIONS, AdapterRows, DistanceTables, Part, Positions, Sequences

ARCHITECTURES = (80, 86, 89, 90)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int32: "i32",
    torch.int64: "i64",
}
HEADS, DIM, WIDTH, INNER = 12, 64, 768, 3072
INSTRUCTION_BYTES = 16
EXECUTABLE = 4  # the flag of a section of an ELF file


class Recorder:
    """A recorder stands in for a kernel: `kernel[grid](...)` notes what would be compiled."""

    def __init__(self, kernel: Any, launches: list[dict[str, Any]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self._note

    def _note(self, *arguments: Any, **named: Any) -> None:
        values = dict(zip(self.kernel.arg_names, arguments, strict=False))
        options = {name: value for name, value in named.items() if name not in self.kernel.arg_names}
        values |= {name: value for name, value in named.items() if name in self.kernel.arg_names}
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.kernel.params):
            name, value = parameter.name, values[parameter.name]
            if parameter.is_constexpr:
                signature[name], constants[name] = "constexpr", value
            elif isinstance(value, Tensor):
                signature[name] = f"*{_TYPES[value.dtype]}"
                if value.data_ptr() % 16 == 0:
                    attributes[(index,)] = [["tt.divisibility", 16]]
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
                if isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize:
                    attributes[(index,)] = [["tt.divisibility", 16]]
        self.launches.append(
            {
                "kernel": self.kernel,
                "signature": signature,
                "constants": constants,
                "attributes": attributes,
                "options": options,
            }
        )


def cases() -> dict[str, Callable[[], Any]]:
    """Maps a name to a call of an operation as a stock model makes it, in 16 bit or float32."""
    from gliclass_fast.kernels import (
        attention,
        disentangled_attention,
        grouped_linear,
        linear,
        lora,
        norm,
        pairs,
    )
    from gliclass_fast.kernels import attention_pool as pooling
    from gliclass_fast.kernels import causal_attention as causal
    from gliclass_fast.kernels import segment_pool as pool
    from gliclass_fast.kernels import segment_softmax as softmax

    def of(dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
        def make(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype)

        def whole(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32)

        qkv, x, vector = make(256, 3, HEADS, DIM), make(256, WIDTH), make(WIDTH)
        spans = whole(3, 2)
        sequences = Sequences(whole(4), None, whole(3, 4), longest=256)
        labels = Sequences(whole(4), spans, whole(3, 4), longest=40)
        text = make(256, 16, 48)
        angles = (make(256, DIM // 2), make(256, DIM // 2))
        table, bucket_of = make(HEADS, 2 * 512 + 1, DIM), torch.zeros(2 * 512 + 1, dtype=torch.int64)
        tables = DistanceTables(table, table, bucket_of)
        many, up, bias = make(4096, WIDTH), make(INNER, WIDTH), make(INNER)
        gate, sums = make(2 * 1152, WIDTH), torch.zeros(2 * 1152)
        normed = partial(linear.norm_linear_triton, sums=sums, eps=1e-5)
        disentangle = disentangled_attention.disentangled_attention_triton
        attend = partial(attention.attention_triton, qkv, sequences, 0.125)
        heads, shared = make(256, 16, 128), make(512, 8, 128)  # of Qwen3-0.6B
        stacked = DistanceTables(make(9, *table.shape), make(9, *table.shape), bucket_of)
        rows, of_projections = AdapterRows(whole(256)), make(256, 3 * WIDTH)
        stores = {rank: lora.lora_store_triton((0, WIDTH, 3 * WIDTH), WIDTH, x) for rank in (16, 64)}
        for rank, store in stores.items():
            store.put(0, [Part(0, make(rank, WIDTH), make(WIDTH, rank))])
        adapt = partial(lora.lora_add_triton, of_projections, x, rows)
        turns = (make(256, 64), make(256, 64))
        halves, twice = (make(256, 2, 384),) * 2, (make(512, 1, 256),) * 2  # of wide heads
        ahead = partial(causal.causal_attention_triton, heads, shared, shared, sequences)
        return {
            "attention": attend,
            "attention, rotary": partial(attend, Positions(angles)),
            "attention, rotary, window": partial(attend, Positions(angles, window=64)),
            "attention, distance bias": partial(attend, Positions(distance_bias=torch.zeros(HEADS, 257))),
            "attention, 32 wide": partial(
                attention.attention_triton, make(256, 3, HEADS, 32), sequences, 0.125
            ),
            "attention, 128 wide": partial(
                attention.attention_triton, make(256, 3, 6, 128), sequences, 128**-0.5
            ),
            "cross attention": partial(
                attention.cross_attention_triton, make(40, 16, 48), text, text, labels
            ),
            "cross attention, 384 wide": partial(
                attention.cross_attention_triton, make(40, 2, 384), *halves, labels
            ),
            "causal attention": ahead,
            "causal attention, pages": partial(ahead, whole(32)),
            "causal attention, 256 wide": partial(
                causal.causal_attention_triton, make(256, 8, 256), *twice, sequences, whole(32)
            ),
            "head norm": partial(norm.head_norm_triton, heads, make(16, 128), 1e-6, *turns),
            "attention pool": partial(pooling.attention_pool_triton, make(40, WIDTH), x, labels, 1.0),
            "disentangled attention": partial(disentangle, qkv, sequences, 0.07, tables),
            "adapted attention": partial(disentangle, qkv, sequences, 0.07, stacked, rows.slots),
            "lora add": partial(adapt, stores[16]),
            "lora add gelu, rank 64": partial(adapt, stores[64], "gelu"),
            "layer norm": partial(norm.layer_norm_triton, x, vector, vector, 1e-7),
            "add norm": partial(norm.add_norm_triton, x, x, vector, vector, 1e-7),
            "embedding norm": partial(
                norm.embedding_norm_triton, [(x, whole(256)), (x, whole(256))], vector, vector, 1e-7
            ),
            "linear gelu, few rows": partial(linear.linear_triton, x, up, bias, "gelu"),
            "linear gelu, many rows": partial(linear.linear_triton, many, up, bias, "gelu"),
            "norm, gated linear, few rows": partial(normed, x, gate, None, activation="gelu", gated=True),
            "norm, gated linear, many rows": partial(normed, many, gate, None, activation="gelu", gated=True),
            "RMS norm, gated linear": partial(
                linear.norm_linear_triton, x, gate, None, sums=None, eps=1e-5, activation="gelu", gated=True
            ),
            "norm, linear add gelu": partial(normed, x, up, bias, activation="gelu", add=make(256, INNER)),
            "grouped linear gelu": partial(
                grouped_linear.grouped_linear_triton,
                linear.linear_triton,
                (make(16, WIDTH), x),
                (make(WIDTH, WIDTH), make(WIDTH, WIDTH)),
                (vector, vector),
                "gelu",
            ),
            "pair dot": partial(pairs.pair_dot_triton, x, x, whole(256)),
            "pair add relu": partial(pairs.pair_add_triton, x, x, whole(256), "relu"),
            "segment pool": partial(pool.segment_pool_triton, x, spans, "sum"),
            "segment softmax": partial(softmax.segment_softmax_triton, make(40), labels),
        }

    bf16 = ("attention, rotary, window", "disentangled attention", "linear gelu, many rows")
    fp32 = (
        "attention",
        "attention pool",
        "cross attention, 384 wide",
        "causal attention, pages",
        "causal attention, 256 wide",
        "disentangled attention",
        "adapted attention",
        "lora add",
        "linear gelu, many rows",
        "grouped linear gelu",
    )
    return {
        **{f"{name}, fp16": call for name, call in of(torch.float16).items()},
        **{f"{name}, bf16": of(torch.bfloat16)[name] for name in bf16},
        **{f"{name}, fp32": of(torch.float32)[name] for name in fp32},
    }


def launches(name: str, architecture: int) -> list[dict[str, Any]]:
    """Returns what a case would launch on a GPU of this architecture."""
    found: list[dict[str, Any]] = []
    for place in sorted({rows["triton"] for rows in IMPLEMENTATIONS.values() if "triton" in rows}):
        kernels = importlib.import_module(f"gliclass_fast.kernels.{place.split(':')[0]}")
        if hasattr(kernels, "capability"):
            vars(kernels)["capability"] = lambda device: divmod(architecture, 10)
        for attribute, value in list(vars(kernels).items()):
            kernel = value.kernel if isinstance(value, Recorder) else value
            if isinstance(kernel, JITFunction) and attribute.endswith("_kernel"):
                setattr(kernels, attribute, Recorder(kernel, found))
    cases()[name]()
    return found


def compiled(name: str, architecture: int, loads: bool) -> list[dict[str, Any]]:
    """Returns the resources of every kernel a case launches."""
    rows = []
    for launch in launches(name, architecture):
        source = ASTSource(launch["kernel"], launch["signature"], launch["constants"], launch["attributes"])
        target = GPUTarget("cuda", architecture, 32)
        binary = triton.compile(source, target=target, options=launch["options"])
        rows.append({"case": name, "architecture": architecture, **_resources(binary, loads)})
    return rows


def _resources(binary: Any, loads: bool) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
        code = _run("nvdisasm", "-c", file.name) if loads else ""
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found is not None, usage
    resources = {
        "kernel": binary.metadata.name,
        "registers": int(found[1]),
        "spilled_bytes": int(found[2]) + int(found[3]),
        "shared_bytes": binary.metadata.shared,
        "instructions": _code_bytes(binary.asm["cubin"]) // INSTRUCTION_BYTES,
    }
    if not loads:
        return resources
    instructions = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", code)
    assert len(instructions) == resources["instructions"]
    return {
        **resources,
        "wide_loads": sum(name.startswith(("LDG", "LDGSTS")) and "128" in name for name in instructions),
        "tensor_core": sum(name.startswith(("HMMA", "HGMMA")) for name in instructions),
    }


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout


def _code_bytes(cubin: bytes) -> int:
    """Returns the size of the sections with code, as the headers of an ELF file of 64 bits tell it."""
    (headers,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count = struct.unpack_from("<HH", cubin, 0x3A)
    sections = (struct.unpack_from("<IIQQQQ", cubin, headers + size * number) for number in range(count))
    return sum(section[5] for section in sections if section[2] & EXECUTABLE)


def measure(architectures: tuple[int, ...] = ARCHITECTURES, loads: bool = True) -> Iterator[dict[str, Any]]:
    """Yields the rows; loads: whether they tell kinds of instructions, which takes a disassembly of each."""
    torch.set_num_threads(1)  # a process forked from one with a pool of OpenMP hangs where it needs the pool
    names = list(cases())
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        for architecture in architectures:
            for rows in pool.map(partial(compiled, loads=loads), names, [architecture] * len(names)):
                yield from rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--architectures", default=",".join(map(str, ARCHITECTURES)))
    parser.add_argument("--brief", action="store_true", help="without kinds of instructions")
    options = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "kernel_resources", "triton": triton.__version__, "rows": []}
    for row in measure(tuple(map(int, options.architectures.split(","))), not options.brief):
        result["rows"].append(row)
        print(*(f"{key} {value}" for key, value in row.items()), sep="  ", flush=True)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
