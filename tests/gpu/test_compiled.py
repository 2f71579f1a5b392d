"""The compiled kernels are right on a GPU; `compute-sanitizer` runs this file too (tools/gpu_check.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast.kernels import compiled_disentangled_attention
from gliclass_fast.ops import implementation
from tests.accuracy import assert_accurate
from tests.kernels import cases
from tests.kernels.adapter_cases import COMPILED, adapted_attention
from tests.parity import assert_parity
from tests.tiny import random_prompt, reference_model

SHAPES: dict[str, dict[str, Any]] = {
    "ragged": {"reach": 40},
    "ragged, several items per block": {"lengths": [1] * 300 + [70], "reach": 40},
    "beyond the reach": {"lengths": [300], "reach": 70},
    "no c2p": {"lengths": [7, 70], "without": "c2p"},
    "no p2c": {"lengths": [7, 70], "without": "p2c"},
    "short": {"lengths": [1, 16, 4, 9, 12, 2], "reach": 5},
}
WIDE = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 192}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("blocks", [(16, 1), (64, 1), (64, 2), (128, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_contract(
    dtype: torch.dtype, blocks: tuple[int, int], shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_disentangled_attention, "blocks", lambda *_: blocks)
    arguments, slow = cases.disentangled_attention(dtype, width=64, **SHAPES[shape])
    run = implementation("disentangled_attention", "cuda")
    out = run(*cases.packed("disentangled_attention", "cuda", cases.moved(arguments, "cuda")))
    assert_accurate(out.cpu(), slow(torch.float64), slow(dtype))


@pytest.mark.parametrize("shape", COMPILED)
@pytest.mark.parametrize("blocks", [(16, 1), (64, 1), (64, 2), (128, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_contract_with_adapters(
    dtype: torch.dtype, blocks: tuple[int, int], shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_disentangled_attention, "blocks", lambda *_: blocks)
    arguments, slow = adapted_attention(dtype, width=64, **COMPILED[shape])
    run = implementation("adapted_attention", "cuda")
    out = run(*cases.packed("adapted_attention", "cuda", cases.moved(arguments, "cuda")))
    assert_accurate(out.cpu(), slow(torch.float64), slow(dtype))


@pytest.mark.parametrize("with_adapters", [False, True])
def test_pytorch_accepts_the_operation(with_adapters: bool) -> None:
    arguments, _ = adapted_attention(torch.float16, width=64, **COMPILED["edges"])
    moved = cases.packed("adapted_attention", "cuda", cases.moved(arguments, "cuda"))
    qkv, sequences, scale, own, rows, store = moved
    tables, slots = (store.tables, rows.slots) if with_adapters else (own, None)
    given = (qkv, tables.key_table, tables.query_table, sequences.tiles, slots)
    torch.library.opcheck(
        torch.ops.gliclass_fast.disentangled_attention.default,
        (*given, tables.reach, scale, sequences.longest),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_a_compiled_call_is_the_same() -> None:
    arguments, _ = cases.disentangled_attention(torch.float16, width=64)
    moved = cases.packed("disentangled_attention", "cuda", cases.moved(arguments, "cuda"))
    run = implementation("disentangled_attention", "cuda")
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*moved), run(*moved))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_with_heads_64_wide_runs_on_them(dtype: torch.dtype) -> None:
    reference = reference_model("deberta-v2", WIDE, scorer_type="mlp", extract_text_features=True)
    model = assert_parity(reference, dtype=dtype, device="cuda").model
    assert model.ops.chosen["disentangled_attention"] == model.ops.chosen["adapted_attention"] == "cuda"
    eager, *replayed = (
        model.loaded.score([random_prompt(150, 3), random_prompt(9, 2)]).wait() for _ in range(4)
    )
    assert all(np.array_equal(each, eager) for each in replayed)
