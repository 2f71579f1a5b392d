"""Decoders run without their causal mask give the states of transformers given a full one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.auto import CONFIG_MAPPING

from gliclass_fast import GLiClassModel, UnsupportedConfigError
from gliclass_fast.models.configuration import read_config
from gliclass_fast.runtime.dtype import dtype_candidates
from tests.accuracy import assert_accurate
from tests.models.encoders.test_states import FEW, LENGTHS, expected_states, packed
from tests.parity import assert_parity
from tests.tiny import VOCABULARY, reference_model

STOCK = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-3,
    "max_position_embeddings": 2048,
}  # fmt: skip
# wavelengths of the heads' four frequencies are 6, 63, 628 and 6283 positions: kept, mixed, divided, divided
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LONGROPE = {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "stock llama": ("llama", {}),
    "stock qwen2": ("qwen2", {}),
    "as many heads": ("llama", {"num_key_value_heads": 4}),
    "one head of keys": ("qwen2", {"num_key_value_heads": 1}),
    "wide heads": ("llama", {"head_dim": 24}),
    "wide heads of qwen2": ("qwen2", {"head_dim": 12}),
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "linear": ("llama", {"rope_parameters": LINEAR}),
    "yarn": ("qwen2", {"rope_parameters": YARN}),
    "transformers 4 names": (
        "llama",
        {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "biases without effect": ("qwen2", {"attention_bias": True, "mlp_bias": True}),
    "tanh-GELU": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "is_decoder": ("llama", {"is_decoder": True}),
}
IN_TRITON = ("stock llama", "stock qwen2", "wide heads", "biases")


def see_both_ways(encoder: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Gives the backbone an additive mask of four dimensions, which transformers takes as it is."""
    tokens = arguments[0] if arguments else options["inputs_embeds"]
    count, length = tokens.shape[:2]
    mask = torch.zeros(count, 1, length, length, dtype=encoder.dtype)
    padding = options.get("attention_mask")
    if padding is not None:
        mask = mask.masked_fill(padding[:, None, None, :] == 0, torch.finfo(mask.dtype).min)
    return arguments, {**options, "attention_mask": mask}


def bidirectional_model(encoder: str, backbone: dict[str, Any] | None = None, **options: Any) -> Any:
    """Builds a reference model whose backbone sees both ways; norms have weights other than one.

    Larger ones would make attention so sharp that single rows lose digits, as in no trained model.
    """
    model = reference_model(encoder, {**STOCK, **(backbone or {})}, **options)
    model.model.encoder_model.register_forward_pre_hook(see_both_ways, with_kwargs=True)
    with torch.no_grad():
        for name, parameter in model.model.encoder_model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1)
    return model


def exactly(encoder: Any) -> Any:
    """Copies the encoder in float64 throughout; its own norms would round to float32."""
    exact = copy.deepcopy(encoder).double()
    for name, module in list(exact.named_modules()):
        if name.endswith("norm"):
            norm = torch.nn.RMSNorm(module.weight.shape, module.variance_epsilon, dtype=torch.float64)
            norm.weight = module.weight
            exact.set_submodule(name, norm)
    return exact


def check(encoder: str, backbone: dict[str, Any], backend: str, dtype: torch.dtype = torch.float32) -> None:
    model = bidirectional_model(encoder, backbone)
    lengths = FEW if backend == "triton" else LENGTHS
    prompts = [torch.randint(4, VOCABULARY, (length,)) for length in lengths]
    theirs = model.model.encoder_model.to(dtype)
    ours = GLiClassModel.from_gliclass(
        model, device="cpu", backend=backend, dtype=dtype
    ).loaded.network.backbone
    with torch.inference_mode():
        found = [state.clone() for state in ours.hidden_states(packed(prompts))]
    low, exact = expected_states(theirs, prompts), expected_states(exactly(theirs), prompts)
    assert len(found) == len(exact) == STOCK["num_hidden_layers"] + 1
    for ours_state, exact_state, low_state in zip(found, exact, low, strict=True):
        assert_accurate(ours_state, exact_state, low_state)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["cpp", "onednn", "reference"])
def test_states(name: str, backend: str) -> None:
    check(*CASES[name], backend)


@pytest.mark.parametrize("name", IN_TRITON)
def test_states_in_triton(name: str) -> None:
    check(*CASES[name], "triton")


@pytest.mark.parametrize("encoder", ["llama", "qwen2"])
def test_states_in_bfloat16(encoder: str) -> None:
    check(encoder, {}, "reference", torch.bfloat16)


@pytest.mark.parametrize("encoder", ["llama", "qwen2"])
def test_the_first_token_sees_the_last_and_no_other_prompt(encoder: str) -> None:
    model = bidirectional_model(encoder)
    ids = torch.randint(4, VOCABULARY, (2, 17))
    other = torch.cat((ids[:, :-1], ids[:, -1:] - 1), dim=1)
    ours = GLiClassModel.from_gliclass(model, device="cpu").loaded.network.backbone

    def first_rows(prompts: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            *_, found = ours.hidden_states(packed(list(prompts)))
        expected = expected_states(model.model.encoder_model, list(prompts))[-1]
        return found[::17], expected[::17]

    changed = torch.stack((ids[0], other[1]))
    for before, after in zip(first_rows(ids), first_rows(changed), strict=True):
        assert torch.equal(before[0], after[0]) and (before[1] - after[1]).abs().max() > 1e-3


def test_given_words_stand_for_the_embeddings() -> None:
    model = GLiClassModel.from_gliclass(bidirectional_model("llama"), device="cpu")
    batch = packed([torch.randint(4, VOCABULARY, (length,)) for length in LENGTHS])
    encoder = model.loaded.network.backbone
    with torch.inference_mode():
        *_, expected = encoder.hidden_states(batch)
        *_, found = encoder.hidden_states(batch, inputs_embeds=encoder.word_embeddings(batch.token_ids))
        x, attended = encoder.last_attention(batch, inputs_embeds=encoder.word_embeddings(batch.token_ids))
        finished = encoder.last_feed_forward(x, attended)
    assert torch.equal(found, expected) and torch.equal(finished, expected)


@pytest.mark.parametrize("encoder", ["llama", "qwen2"])
@pytest.mark.parametrize("scorer", ["simple", "mlp"])
@pytest.mark.parametrize(
    "options",
    [{}, {"pooling_strategy": "avg", "use_segment_embeddings": True, "extract_text_features": True}],
)
def test_logits(encoder: str, scorer: str, options: dict[str, Any]) -> None:
    # a mask that no config shows changes the logits
    assert_parity(bidirectional_model(encoder, scorer_type=scorer, **options), keep=False)


@pytest.mark.parametrize("encoder", ["llama", "qwen2"])
def test_on_a_gpu_they_run_in_bfloat16(encoder: str) -> None:
    model = reference_model(encoder, STOCK)
    config = read_config(model.config.to_dict())
    assert dtype_candidates(None, torch.device("cuda"), config, {}) == [torch.bfloat16]
    assert config.backbone_config.max_positions == STOCK["max_position_embeddings"]


@pytest.mark.parametrize(
    ("encoder", "option", "message"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            r"rope_type='dynamic'.*supported: default, linear, llama3, yarn",
        ),
        ("llama", {"rope_parameters": LONGROPE}, r"rope_type='longrope'.*supported: default, linear"),
        (
            "llama",
            {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}},
            r"turns 4 values of heads 8 wide; supported: all",
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "max_window_layers": 1},
            r"use_sliding_window=True.*supported: false",
        ),
        (
            "qwen2",
            {"layer_types": ["full_attention", "sliding_attention"]},
            r"sliding_attention'\].*supported: ",
        ),
        ("qwen2", {"hidden_act": "relu6"}, r"hidden_act='relu6'.*supported: .*silu"),
    ],
)
def test_refused_options(encoder: str, option: dict[str, Any], message: str) -> None:
    backbone = CONFIG_MAPPING[encoder](**{**STOCK, "hidden_size": 32, **option}).to_dict()
    with pytest.raises(UnsupportedConfigError, match=message):
        read_config({"encoder_config": {**backbone, "model_type": encoder}})
