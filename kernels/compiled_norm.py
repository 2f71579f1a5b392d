"""The norms of csrc/cpu as PyTorch operations: their contracts stand in norm.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gliclass_fast.kernels import _buffers, _extension
from gliclass_fast.kernels._extension import address, extension
from gliclass_fast.kernels._threads import thread_count


def _norm(
    sources: Sequence[tuple[Tensor, Tensor | None]],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    rms: bool,
) -> Tensor:
    """Returns the norm of the sum of the sources' rows: all of a table, or those at places int32 [T].

    Raises IndexError for a place that a table does not have.
    """
    table, places = sources[0]
    width, rows = table.shape[1], len(table) if places is None else len(places)
    if not width:
        raise ValueError("rows have no values")
    for given in (*(table for table, _ in sources), weight, bias):
        if given is not None and (given.dtype is not torch.float32 or given.shape[-1] != width):
            raise ValueError(f"needs float32 [*, {width}], got {given.dtype} {list(given.shape)}")
    for table, given in sources:
        if given is None and len(table) != rows:
            raise ValueError(f"needs {rows} rows, got {len(table)}")
        if given is not None and (given.dtype is not torch.int32 or given.shape != (rows,)):
            raise ValueError(f"needs int32 [{rows}], got {given.dtype} {list(given.shape)}")
    out = _buffers.empty(rows, width)
    addresses = [(address(table), len(table), address(places)) for table, places in sources]
    extension().norm_cpu(
        _extension.instruction_set()[0], addresses, address(weight), address(bias), address(out), rows,
        width, eps, rms, thread_count(),
    )  # fmt: skip
    return out


def normed_cpp(x: Tensor, eps: float, rms: bool) -> Tensor:
    """Does what `normed` in linear.py does."""
    return _norm([(x.contiguous(), None)], None, None, eps, rms)


def layer_norm_cpp(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool = False) -> Tensor:
    return _norm([(x.contiguous(), None)], weight, bias, eps, rms)


def embedding_norm_cpp(
    sources: Sequence[tuple[Tensor, Tensor]], weight: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    return _norm(sources, weight, bias, eps, False)


def add_norm_cpp(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool = False
) -> Tensor:
    return _norm([(x.contiguous(), None), (residual.contiguous(), None)], weight, bias, eps, rms)


def head_norm_cpp(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    rows, heads, width = x.shape
    for given, shape in ((x, x.shape), (weight, (heads, width)), (cos, (rows, width // 2)), (sin, cos.shape)):
        if given.dtype is not torch.float32 or given.shape != shape:
            raise ValueError(f"needs float32 {list(shape)}, got {given.dtype} {list(given.shape)}")
    if not width or width % 2 or x.stride()[1:] != (width, 1):
        raise ValueError(
            f"needs heads of an even width one after the other, got {list(x.shape)}, {x.stride()}"
        )
    out = _buffers.empty(rows, heads, width)
    arguments = extension().HeadNorm(
        x=address(x, strided_rows=True), stride=x.stride(0), weight=address(weight), cosines=address(cos),
        sines=address(sin), out=address(out), rows=rows, heads=heads, width=width, eps=eps,
        threads=thread_count(),
    )  # fmt: skip
    extension().head_norm_cpu(_extension.instruction_set()[0], arguments)
    return out
