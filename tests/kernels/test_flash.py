"""The flash-attn row of the dispatch table works with a stand-in for the package, which needs a GPU."""

from __future__ import annotations

import importlib.machinery
import sys
from dataclasses import replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from gliclass_fast import ops
from gliclass_fast.kernels.flash_attention import attention_flash, unusable
from tests.kernels.cases import CASES, attention, check


def packed(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, softmax_scale: float, window_size: tuple[int, int]
) -> Tensor:
    """Does as flash_attn_varlen_qkvpacked_func, [T, H, D]; rows after the last sequence are undefined."""
    out = torch.full_like(qkv[:, 0], float("nan"))
    for start, end in pairwise(cu_seqlens.tolist()):
        assert end - start <= max_seqlen
        q, k, v = (part.transpose(0, 1).float() for part in qkv[start:end].unbind(1))
        place = torch.arange(end - start)
        near = (place[:, None] - place).abs() <= (window_size[0] if window_size[0] >= 0 else end)
        scores = (q @ k.mT * softmax_scale).masked_fill(~near, float("-inf"))
        out[start:end] = (scores.softmax(-1) @ v).transpose(0, 1).to(out.dtype)
    return out


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("flash_attn")
    module.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    module.flash_attn_varlen_qkvpacked_func = packed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)


NAMES = [name for name, (operation, _) in CASES.items() if operation == "attention" and "bias" not in name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_contract(name: str, dtype: torch.dtype) -> None:
    check(name, "flash", dtype)


def test_a_distance_bias_is_refused() -> None:
    arguments, _ = attention(torch.float16, biased=True)
    with pytest.raises(ValueError, match="no distance bias"):
        attention_flash(*arguments)


def test_where_it_runs() -> None:
    gpu = torch.device("cuda")
    assert unusable(gpu, torch.float16, 64) is None
    assert "16 bit" in str(unusable(gpu, torch.float32, 64))
    assert "multiples of 8" in str(unusable(gpu, torch.float16, 20))
    assert ops.unavailable_reason("flash", "cpu") == "flash-attn runs on GPUs"
    assert all("flash" not in order for order in ops.ORDER.values())  # only where it is asked for


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in str(unusable(torch.device("cuda"), torch.float16, 64))


def test_asked_for_it_leaves_the_other_operations_to_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = ops.unavailable_reason

    def reason(backend: str, *rest: Any) -> str | None:
        return None if backend == "flash" else usable(backend, *rest)

    usual = ops.choose_ops("cpu").chosen
    monkeypatch.setattr(ops, "unavailable_reason", reason)
    found = ops.choose_ops("cpu", only="flash")
    assert found.chosen == {**usual, "attention": "flash", "bind_self_attention": "reference"}
    # launched for the number of sequences, which differs between batches of as many tokens
    assert not replace(found, chosen=dict.fromkeys(usual, "triton") | {"attention": "flash"}).recordable
    assert replace(found, chosen=dict.fromkeys(usual, "triton")).recordable
