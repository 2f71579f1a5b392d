"""Views replace copies, ranges hold and the right implementation is chosen, which no contract shows."""

from __future__ import annotations

import math

import pytest
import torch

from gliclass_fast import ops
from gliclass_fast.kernels import attention, linear
from gliclass_fast.kernels.disentangled_attention import disentangled_attention_reference, distance_columns
from gliclass_fast.kernels.linear import ACTIVATIONS, normed
from gliclass_fast.ops import IMPLEMENTATIONS, DistanceTables, choose_ops, implementation
from tests.accuracy import assert_accurate
from tests.kernels.cases import cumulative, sequences


def test_short_sequences_read_the_table_in_place() -> None:
    table = torch.randn(2, 8, 32)
    bucket_of = torch.cat((torch.zeros(20), torch.arange(32), torch.full((21,), 31))).long()
    columns = distance_columns(table, bucket_of, 9)
    assert columns.data_ptr() != table.data_ptr() and columns.untyped_storage().data_ptr() == table.data_ptr()
    assert torch.equal(distance_columns(table, bucket_of, 40)[:, :, 39], table[:, :, bucket_of[36]])


@pytest.mark.parametrize("built", [True, False])
def test_linear_maps_have_kernels_for_float32_only(built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not built:
        monkeypatch.setattr(ops, "absence", lambda part: "compiled kernels were not built")
    expected = "cpp" if built else "onednn"
    assert choose_ops("cpu").chosen["linear"] == choose_ops("cpu").chosen["pack_linear"] == expected
    assert choose_ops("cpu", torch.bfloat16).chosen["linear"] == "reference"
    for backend in ("onednn", "cpp"):
        with pytest.raises(ValueError, match=f"{backend} computes in float32 only"):
            choose_ops("cpu", torch.bfloat16, only=backend)


def test_backends_with_a_layout_of_their_own_implement_all_that_reads_it() -> None:
    for pack, readers in (
        ("pack_linear", ("linear", "linear_add", "norm_linear")),
        ("pack_distances", ("disentangled_attention", "adapted_attention")),
    ):
        for reader in readers:
            assert IMPLEMENTATIONS[pack].keys() <= IMPLEMENTATIONS[reader].keys()


def test_an_explicit_backend_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    known = "reference, onednn, int8, int8_reference, bfloat16, cpp, triton, cpp_bfloat16, flash, cuda"
    with pytest.raises(ValueError, match=f"one of: {known}"):
        choose_ops("cpu", only="cudnn")
    assert choose_ops("cpu", only="triton").chosen["attention"] == "triton"  # interpreted
    assert choose_ops("cpu", only="onednn").chosen["attention"] == "reference"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="Triton runs on GPUs"):
        choose_ops("cpu", only="triton")


def test_float16_products_that_fit_once_scaled_stay_finite() -> None:
    """Unscaled, q . k would be 64 * 40 * 40 = 102,400, beyond float16; scaled it is 7,390."""
    qkv = torch.full((5, 3, 2, 64), 40.0, dtype=torch.float16)
    table = torch.full((2, 64, 3), 40.0, dtype=torch.float16)
    tables = DistanceTables(table, table, torch.arange(3))
    out = disentangled_attention_reference(qkv, sequences(cumulative([5])), 192**-0.5, tables)
    assert torch.equal(out, torch.full_like(out, 40.0))


@pytest.mark.parametrize("value_bytes", [2, 4])
def test_blocks_of_every_head_width_fit_the_shared_memory(value_bytes: int) -> None:
    """A GPU of compute capability 8.6 or 8.9 gives a block 99 KB; what is wider runs the reference."""
    for width in (8, 48, 64, 128, 136, 256, 384, 512, 768, 1024):
        key = attention.tile_key(value_bytes, width)
        if key is None:
            assert value_bytes * width > 2048
        else:
            rows, keys, _, stages = attention.TILE[key]
            assert (rows + 2 * stages * keys) * (1 << (width - 1).bit_length()) * value_bytes <= 99 * 1024
    assert attention.tile_key(value_bytes, 1025) is None


def test_heads_that_fit_no_block_run_the_reference() -> None:
    def heads(rows: int, count: int = 2) -> torch.Tensor:
        return torch.randn(rows, count, 1032)

    own, of_texts = sequences(cumulative([5])), sequences(cumulative([2]), torch.tensor([[1, 5]]).int())
    for operation, arguments in {
        "attention": (heads(5, 3)[:, :, None], own, 0.03),
        "cross_attention": (heads(2), heads(5), heads(5), of_texts),
        "causal_attention": (heads(5), heads(5), heads(5), own.causal()),
    }.items():
        found, expected = (implementation(operation, each)(*arguments) for each in ("triton", "reference"))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("depth", [33, 192])
def test_norms_of_few_rows_keep_the_variance_beside_a_large_mean(
    depth: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    x, weight = (1000 + torch.randn(17, depth)).to(dtype), torch.randn(38, depth).to(dtype)
    exact = normed(x.double(), 1e-7, rms=False) @ weight.double().T
    arguments = x.to(device), weight.to(device), None, weight.float().sum(1).to(device), 1e-7
    few = linear.norm_linear_triton(*arguments).cpu()
    monkeypatch.setattr(linear, "FEW", 0)
    assert_accurate(few, exact, linear.norm_linear_triton(*arguments).cpu())


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("reduce", ["max", "abs_max", "sum"])
def test_pooling_keeps_what_is_not_a_number(reduce: str, backend: str) -> None:
    """A kernel that lost it would turn an overflow in one row into a score that looks right."""
    rows = torch.randn(70, 40, dtype=torch.float16)
    rows[66, 3] = float("nan")
    spans = torch.tensor([[0, 66], [66, 70]], dtype=torch.int32)
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    pool = choose_ops(device, torch.float16, only=backend).segment_pool
    pooled = pool(rows.to(device), spans.to(device), reduce).cpu()
    assert pooled[0].isfinite().all() and pooled[1].isnan().tolist() == [place == 3 for place in range(40)]


def test_gelu_is_the_exact_form() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    assert torch.allclose(ACTIVATIONS["gelu"](x), x * (1 + torch.erf(x / math.sqrt(2))) / 2, atol=1e-14)
