"""int8 linear maps stay within the error that rounding allows, and a quantised model keeps decisions."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline, demo
from gliclass_fast.kernels import int8
from gliclass_fast.kernels.linear import normed
from gliclass_fast.ops import unavailable_reason
from tests.tiny import ENCODERS, fast_pipeline, reference_model

SHAPES = [(1, 33, 38), (17, 768, 3072), (130, 3072, 768), (2, 5, 7)]


def allowed(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """Gives every element's largest error, as kernels/int8.py derives it, with that of float32 rounding."""
    step = x.abs().amax(1).double() / int8.LIMIT
    scale = weight.abs().amax(1).double() / int8.weight_limit()
    of_input = step[:, None] / 2 * weight.double().abs().sum(1)
    of_weight = scale / 2 * x.double().abs().sum(1, keepdim=True)
    both = step[:, None] * scale * x.shape[1] / 4
    return of_input + of_weight + both + 1e-6 * y.abs()


@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_alone_separates_it_from_the_exact_product(shape: tuple[int, int, int]) -> None:
    rows, depth, width = shape
    x, weight, bias = torch.randn(rows, depth), torch.randn(width, depth), torch.randn(width)
    x[:, 0] *= 50  # one column far beyond the others
    weight[1:3] *= torch.tensor([[1e-4], [1e3]])
    found = int8.linear_int8(x, int8.pack_int8(weight), bias).double()
    exact = x.double() @ weight.double().T + bias
    assert ((found - exact).abs() <= allowed(x, weight, exact)).all()
    added = int8.linear_add_int8(x, int8.pack_int8(weight), bias, torch.ones(rows, width)).double()
    assert torch.allclose(added, found + 1, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.nightly
def test_it_is_exact_on_processors_without_vnni() -> None:
    """The same tests pass in a process in which oneDNN is held to AVX2."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "rounding or largest or demo",
    ]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout


def test_the_largest_values_do_not_saturate() -> None:
    x, weight = torch.full((17, 768), 3.0), torch.full((96, 768), 2.0)
    found = int8.linear_int8(x, int8.pack_int8(weight), None)
    assert torch.allclose(found, torch.full((17, 96), 768 * 6.0))


def test_rows_of_zeros_stay_zeros() -> None:
    weight = torch.randn(8, 16)
    weight[3] = 0
    found = int8.linear_int8(torch.zeros(2, 16), int8.pack_int8(weight), None)
    assert torch.equal(found, torch.zeros(2, 8))
    assert int8.linear_int8(torch.ones(1, 16), int8.pack_int8(weight), None)[0, 3] == 0


@pytest.mark.parametrize("activation", ["none", "gelu", "relu"])
def test_what_comes_after_the_product(activation: str) -> None:
    x, weight, bias = torch.randn(9, 32), torch.randn(24, 32), torch.randn(24)
    packed = int8.pack_int8(weight)
    product = int8.linear_int8(x, packed, bias)
    expected = int8.ACTIVATIONS[activation](product)
    assert torch.allclose(int8.linear_int8(x, packed, bias, activation), expected, atol=1e-6)
    plain = int8.linear_int8(normed(x, 1e-5, rms=False), packed, bias)
    found = int8.norm_linear_int8(x, packed, bias, weight.sum(1), 1e-5, activation, gated=True)
    gated = int8.ACTIVATIONS[activation](plain[:, :12]) * plain[:, 12:]
    assert torch.allclose(found, gated, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_only_the_encoder_is_quantised(encoder: str) -> None:
    reference = reference_model(encoder, scorer_type="mlp")
    model = GLiClassModel.from_gliclass(reference, device="cpu", quantization="int8")
    linears = [each for each in model.loaded.network.modules() if isinstance(each, torch.nn.Linear)]
    quantised = {id(each) for each in linears if each.weight.dtype is torch.uint8}
    of_encoder = {
        id(each) for each in model.loaded.network.backbone.modules() if isinstance(each, torch.nn.Linear)
    }
    assert quantised == of_encoder and len(quantised) < len(linears)
    plain = fast_pipeline(reference).get_embeddings("a text", ["a", "b"])[0]["logits"]
    found = fast_pipeline(model).get_embeddings("a text", ["a", "b"])[0]["logits"]
    assert np.isfinite(found).all() and not np.array_equal(found, plain)


def test_the_demo_checkpoint_decides_as_in_float32() -> None:
    texts = [
        "A NASA rover has found organic molecules in a Martian crater.",
        "The central bank raised interest rates to slow inflation.",
        "Add this song to my workout playlist, please.",
    ]
    labels = ["space exploration", "banking and finance", "music", "cooking"]
    scores = []
    for precision in (None, "int8"):
        model = GLiClassModel.from_pretrained(demo.PATH, device="cpu", quantization=precision)
        pipeline = ZeroShotClassificationPipeline(model, demo.PATH, device="cpu", progress_bar=False)
        scores.append([[each["score"] for each in row] for row in pipeline(texts, labels, threshold=0.0)])
    plain, rounded = map(np.array, scores)
    assert ((plain >= 0.5) == (rounded >= 0.5)).all()


def test_where_it_runs() -> None:
    assert unavailable_reason("int8", "cuda") == "int8 runs on CPUs"
    assert "computes in float32 only" in str(unavailable_reason("int8", "cpu", torch.bfloat16))
    with pytest.raises(ValueError, match="asked for as quantization='int8'"):
        GLiClassModel.from_pretrained(demo.PATH, device="cpu", backend="int8")
    with pytest.raises(ValueError, match="quantization 'int4' is not supported"):
        GLiClassModel.from_pretrained(demo.PATH, device="cpu", quantization="int4")
