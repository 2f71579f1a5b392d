"""The compiled CPU kernels at random sizes, spans and work lists, under sanitizers and beside float64.

python -m tools.fuzzing.kernels LIBRARY SEED MINUTES FIRST STEP
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from tools.fuzzing import sanitized

WITHIN = 1e-4  # of the largest value, or of 1
BOUND = 1.001  # of the bound of what rounds: norms differ in their last bits
LINEAR = ("linear", "linear_add", "norm_linear")  # what int8 and bfloat16 have too
NUMBERED = "case "  # begins the line that is on standard error when a sanitizer ends the process


def fuzz(seed: int, minutes: float, numbers: Iterator[int]) -> dict[str, Any]:
    """Builds the extension, and returns how many cases a process of its own ran, and the faults."""
    first, step = next(numbers), next(numbers)
    with tempfile.TemporaryDirectory() as folder:
        library = sanitized.build(Path(folder))
        given = [str(each) for each in (library, seed, minutes, first, step - first)]
        command = [sys.executable, "-m", "tools.fuzzing.kernels", *given]
        done = subprocess.run(
            command,
            env=sanitized.environment(),
            cwd=sanitized.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    last = [line for line in done.stderr.splitlines() if line.startswith(NUMBERED)][-1:]
    return {"cases": 0, "by_kernel": {}, "faults": [{"last": last, "error": sanitized.report(done.stderr)}]}


def _lengths(chance: Random, most: int) -> list[int]:
    return [
        chance.choice((1, 2, 16, 17, 127, 128, 129, chance.randint(1, 300)))
        for _ in range(chance.randint(1, most))
    ]


def _width(chance: Random) -> int:
    return 2 * chance.choice((1, 2, 4, 8, 12, 16, 32, chance.randint(1, 40)))


def _attention(chance: Random) -> tuple[str, Any]:
    from tests.kernels import cases

    window = chance.choice((None, None, 0, 1, 8, chance.randint(0, 200)))
    made = {"rotary": chance.random() < 0.5, "window": window, "biased": chance.random() < 0.3}
    lengths, width = _lengths(chance, 4), _width(chance)
    return "attention", cases.attention(_float32(), lengths=lengths, width=width, **made)


def _disentangled(chance: Random) -> tuple[str, Any]:
    from tests.kernels import cases

    reach = chance.choice((1, 2, 15, 16, 17, chance.randint(1, 200)))
    without = chance.choice(("", "c2p", "p2c"))
    lengths, width = _lengths(chance, 4), _width(chance)
    return "disentangled_attention", cases.disentangled_attention(_float32(), reach, lengths, without, width)


def _adapted(chance: Random) -> tuple[str, Any]:
    from tests.kernels.adapter_cases import adapted_attention

    lengths, without = _lengths(chance, 4), chance.choice(("", "c2p", "p2c"))
    made = {"reach": chance.randint(1, 200), "width": _width(chance), "without": without}
    slots = [chance.randint(-1, 3) for _ in lengths]
    return "adapted_attention", adapted_attention(_float32(), slots, lengths, **made)


def _causal(chance: Random) -> tuple[str, Any]:
    from tests.kernels.causal_cases import causal_attention
    from tests.kernels.layouts import LENGTHS

    kept = None if chance.random() < 0.3 else [chance.randint(0, 80) for _ in LENGTHS]
    return "causal_attention", causal_attention(_float32(), chance.randint(1, 4), _width(chance), kept)


def _cross(chance: Random) -> tuple[str, Any]:
    import torch

    from tests.kernels.layouts import cumulative, sequences

    lengths = _lengths(chance, 4)
    rows, heads, width = chance.randint(1, 200), chance.randint(1, 4), _width(chance)
    starts = [chance.randrange(rows) for _ in lengths]
    spans = torch.tensor([[start, chance.randint(start + 1, rows)] for start in starts]).int()
    q, k, v = (torch.randn(n, heads, width) for n in (sum(lengths), rows, rows))

    def slow(precision: torch.dtype) -> torch.Tensor:
        parts = zip(torch.split(q.to(precision), lengths), spans.tolist(), strict=True)
        return torch.cat(
            [_attended(part, k[a:b].to(precision), v[a:b].to(precision)) for part, (a, b) in parts]
        )

    return "cross_attention", ((q, k, v, sequences(cumulative(lengths), spans)), slow)


def _attended(q: Any, k: Any, v: Any) -> Any:
    import torch

    scores = torch.einsum("ihd,jhd->hij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1)


def _linear(chance: Random) -> tuple[str, Any]:
    import torch

    from gliclass_fast.kernels.linear import ACTIVATIONS
    from tests.kernels.linear_cases import affine

    rows, depth, width = (chance.choice((1, 15, 16, 17, chance.randint(1, most))) for most in (300, 200, 200))
    x = torch.randn(rows, depth + chance.randint(0, 9))[:, :depth]  # rows may be strided
    weight, bias = torch.randn(width, depth), torch.randn(width) if chance.random() < 0.5 else None
    residual, product = torch.randn(rows, width), partial(affine, x, weight, bias)
    if chance.random() < 0.3:
        return "linear_add", ((x, weight, bias, residual.clone()), lambda p: residual.to(p) + product(p))
    activation = chance.choice(list(ACTIVATIONS))
    return "linear", ((x, weight, bias, activation), lambda p: ACTIVATIONS[activation](product(p)))


def _norm_linear(chance: Random) -> tuple[str, Any]:
    from gliclass_fast.kernels.linear import ACTIVATIONS
    from tests.kernels.linear_cases import norm_linear

    gated = chance.random() < 0.5
    sizes = {
        "width": 2 * chance.choice((4, 8, 16, 48, chance.randint(1, 100))),
        "depth": chance.randint(2, 700),
        "rows": chance.randint(1, 200),
    }
    rest = {"rms": chance.random() < 0.5, "gated": gated, "added": not gated and chance.random() < 0.3}
    return "norm_linear", norm_linear(_float32(), chance.choice(list(ACTIVATIONS)), **sizes, **rest)


def _rounded(backend: str, operation: str, arguments: tuple[Any, ...], in_pairs: bool) -> str | None:
    """Runs a map that rounds, without an activation; returns by how much its error exceeds the bound."""
    from gliclass_fast.kernels.linear import normed
    from tests.kernels import rounded, test_bfloat16, test_int8

    x, weight, bias, *rest = arguments
    rest = rest[: {"linear": 0, "linear_add": 1, "norm_linear": 2}[operation]]
    found = rounded.Run(backend, in_pairs)(operation, x, weight, bias, *rest)
    rows = normed(x, rest[1], rest[0] is None) if operation == "norm_linear" else x
    exact = rows.double() @ weight.double().T + (0 if bias is None else bias)
    if operation == "linear_add":
        exact += rest[0]
    if backend == "int8":
        allowed = test_int8.allowed(rows, weight, exact, in_pairs)
    else:
        allowed = test_bfloat16.allowed(rows, weight) + 1e-6 * exact.abs().clamp(min=1)
    error = float(((found - exact).abs() / allowed).max())
    return None if error <= BOUND else f"error {error:.4f} times its bound"


def _feed_forward(chance: Random) -> str | None:
    """Compares a bound layer with its operations, without adapters bit by bit; returns how they differ."""
    import torch

    from gliclass_fast.kernels.compiled_linear import FUSED
    from gliclass_fast.ops import ROUNDED, AdapterRows, choose_ops
    from tests.kernels import test_feed_forward as layers

    ops = choose_ops("cpu", rounding=chance.choice((None, *ROUNDED)))
    bounds = (20, 25, 40)
    depth, width, inner = (16 * chance.randint(1, most) - chance.choice((0, 0, 1, 9)) for most in bounds)
    kind = chance.choice(list(layers.KINDS))
    if layers.KINDS[kind].get("gated"):
        inner = 16 * (inner // 16 + 1)
    sizes = {"depth": depth, "width": width, "inner": inner}
    layer, sums = layers.layer_of(ops, kind, chance.choice(list(FUSED)), chance.random() < 0.5, **sizes)
    bound, rows = ops.bind_feed_forward(layer), chance.choice((1, 511, 512, 513, chance.randint(1, 600)))
    x, attended = torch.randn(rows, width), torch.randn(rows, depth)
    assert bound is not None
    found, expected = bound(x, attended), layers.apart(ops, layer, sums, x.clone(), attended)
    if not all(map(torch.equal, found, expected)):
        return f"{kind} {sizes}, {rows} rows: other bits than its operations"
    if ops.chosen["linear"] != "cpp":
        return None
    slots = AdapterRows(torch.randint(-1, 3, (rows,), dtype=torch.int32).sort().values)
    ranks = {slot: chance.choice((1, 8, 15, 16, 17, 64)) for slot in range(2)}
    stores = [
        layers.adapted(ops, ranks, inputs, outputs) if chance.random() < 0.8 else None
        for inputs, outputs in ((depth, width), (width, 2 * inner if layer.gated else inner), (inner, width))
    ]
    if layer.gated and chance.random() < 0.5:
        stores[1] = layers.gates_adapted(ops, width, inner)
    last = bound(x, attended, slots, stores)[1]
    exact = layers.apart(ops, layer, sums, x.clone(), attended, slots, stores)[1]
    error = float((last - exact).abs().max() / exact.abs().max())
    if error < 1e-4:
        return None
    return f"{kind} {sizes}, {rows} rows, adapters of ranks {ranks}: {error:.1e} off"


def _self_attention(chance: Random) -> str | None:
    """Compares a bound attention half with its operations, bit by bit; returns how they differ."""
    import torch

    from gliclass_fast.ops import ROUNDED, choose_ops
    from tests.kernels import test_self_attention as layers
    from tests.kernels.layouts import cumulative, sequences

    ops = choose_ops("cpu", rounding=chance.choice((None, *ROUNDED)))
    kind = chance.choice(list(layers.KINDS))
    layer, sums = layers.layer_of(ops, kind, biased=chance.random() < 0.5)
    lengths = [chance.randint(1, max(layers.LENGTHS)) for _ in range(chance.randint(1, 4))]
    seen, rotary = sequences(cumulative(lengths)), layers.KINDS[kind][1]
    x = torch.randn(sum(lengths), layer.depth)
    bound = ops.bind_self_attention(layer)
    assert bound is not None
    if torch.equal(bound(x, seen, rotary), layers.apart(ops, layer, sums, x, seen, rotary)):
        return None
    return f"{kind}, texts of {lengths} rows: other bits than its operations"


LAYERS = {"feed_forward": _feed_forward, "self_attention": _self_attention}


def _norm(chance: Random) -> tuple[str, Any]:
    from tests.kernels import cases

    rows, width = chance.randint(1, 300), chance.choice((2, 15, 16, 17, chance.randint(2, 800)))
    if chance.random() < 0.4:
        return "embedding_norm", cases.embedding_norm(_float32(), chance.randint(1, 3), rows, width)
    add, biased, rms = (chance.random() < 0.5 for _ in range(3))
    name = "add_norm" if add else "layer_norm"
    return name, cases.norm(_float32(), add, biased and not rms, rms, (rows, width))


def _head_norm(chance: Random) -> tuple[str, Any]:
    from tests.kernels.causal_cases import head_norm

    return "head_norm", head_norm(_float32(), _width(chance), chance.randint(1, 300))


def _pairs(chance: Random) -> tuple[str, Any]:
    from gliclass_fast.kernels.linear import ACTIVATIONS
    from tests.kernels import cases

    counts = [chance.randint(0, 60) for _ in range(chance.randint(1, 9))]
    activation, width = chance.choice([None, *ACTIVATIONS]), chance.randint(1, 300)
    name = "pair_dot" if activation is None else "pair_add"
    return name, cases.pair(_float32(), activation, [*counts, 1], width)


CASES: tuple[Callable[[Random], tuple[str, Any]], ...] = (
    _attention, _disentangled, _adapted, _causal, _cross, _linear, _norm_linear, _norm, _head_norm, _pairs,
)  # fmt: skip


def _float32() -> Any:
    import torch

    return torch.float32


def run(chance: Random, sets: dict[int, tuple[str, int]]) -> tuple[str, str | None]:
    """Runs a case on a random instruction set; returns the operation, and what is wrong with its result."""
    import torch

    from gliclass_fast.kernels import _extension

    torch.manual_seed(chance.getrandbits(32))
    chosen = chance.choice(list(sets))
    _extension.instruction_set = lambda: (chosen, sets[chosen][1])  # type: ignore[assignment]
    torch.set_num_threads(chance.randint(1, 3))
    operation, wrong = _run(chance, chosen)
    return operation, None if wrong is None else f"{wrong}, on {sets[chosen][0]}"


def _run(chance: Random, chosen: int) -> tuple[str, str | None]:
    import torch

    from gliclass_fast.kernels._extension import extension
    from gliclass_fast.ops import IMPLEMENTATIONS, implementation
    from tests.kernels import cases

    if chance.randrange(len(CASES) + len(LAYERS)) < len(LAYERS):
        half = chance.choice(list(LAYERS))
        return half, LAYERS[half](chance)
    operation, (arguments, slow) = chance.choice(CASES)(chance)
    if operation in LINEAR and (backend := chance.choice(("cpp", "int8", "bfloat16"))) != "cpp":
        in_pairs = extension().int8_adds_pairs(chosen)
        return f"{operation}, {backend}", _rounded(backend, operation, arguments, in_pairs)
    backend = "cpp"
    if "cpp_bfloat16" in IMPLEMENTATIONS[operation] and chance.random() < 0.5:
        backend = "cpp_bfloat16"
    name = f"{operation}, bfloat16" if backend == "cpp_bfloat16" else operation
    found = implementation(operation, backend)(*cases.packed(operation, backend, arguments)).double()
    exact = slow(torch.float64)
    if found.shape != exact.shape:
        return name, f"shape {list(found.shape)}, not {list(exact.shape)}"
    error = float((found - exact).abs().max())
    if not error <= WITHIN * max(1.0, float(exact.abs().max())):
        # where values nearly cancel, as in the norm of two, float32 itself is off by more
        precision = torch.float32 if backend == "cpp" else torch.bfloat16
        low = float((slow(precision).double() - exact).abs().max())
        if not error <= 2 * low:
            return name, f"error {error:.2e}, and that of {precision} {low:.2e}"
    return name, None


def main() -> None:
    library, *given = sys.argv[1:]
    seed, minutes = int(given[0]), float(given[1])
    first, step = map(int, given[2:])
    sanitized.load(library)
    from gliclass_fast.kernels._extension import extension

    assert extension().__file__ == library
    sets, faults = extension().instruction_sets(), []
    done: dict[str, int] = {}
    end = time.monotonic() + 60 * minutes
    for number in count(first, step):
        print(f"{NUMBERED}{seed}/{number}", file=sys.stderr, flush=True)
        operation, wrong = run(Random(f"{seed}/{number}"), sets)
        done[operation] = done.get(operation, 0) + 1
        if wrong is not None:
            faults.append({"number": number, "operation": operation, "error": wrong})
        if time.monotonic() >= end:
            break
    print(json.dumps({"cases": sum(done.values()), "by_kernel": done, "faults": faults[:20]}))


if __name__ == "__main__":
    main()
