"""Every backbone gives the hidden states of transformers, prompt by prompt, under the accuracy rule."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from transformers.models.deberta.modeling_deberta import DebertaLayerNorm

from gliclass_fast import GLiClassModel, UnsupportedConfigError
from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.runtime.packing import pack
from tests.accuracy import assert_accurate
from tests.tiny import ENCODERS, MORE_ENCODERS, VOCABULARY, reference_model

LENGTHS = [1, 17, 63, 130]
FEW = [1, 17, 40]  # for Triton's interpreter: still beyond the window of the tiny ModernBERT
DEBERTA_EXTRAS: dict[str, dict[str, Any]] = {
    "stock buckets": {"position_buckets": 256, "max_position_embeddings": 512},
    "no buckets": {"position_buckets": -1},
    "given distance": {"max_relative_positions": 24, "position_buckets": 8},
    "odd buckets": {"position_buckets": 17},
    "more buckets than distances": {"position_buckets": 32, "max_relative_positions": 10},
    "c2p only": {"pos_att_type": ["c2p"]},
    "p2c only": {"pos_att_type": ["p2c"]},
    "terms as text": {"pos_att_type": "p2c|c2p"},
    "separate projections": {"share_att_key": False},
    "no norm of distances": {"norm_rel_ebd": "none"},
    "absolute positions": {"position_biased_input": True, "max_position_embeddings": 160},
    "token types": {"type_vocab_size": 2},
    "narrow embeddings": {
        "embedding_size": 12,
        "position_biased_input": True,
        "max_position_embeddings": 160,
    },
    "convolution": {"conv_kernel_size": 3, "conv_act": "gelu", "conv_groups": 2},
    "not relative": {"relative_attention": False, "pos_att_type": []},
    "tanh-GELU": {"hidden_act": "gelu_new"},
}
MODERNBERT_EXTRAS: dict[str, dict[str, Any]] = {
    "window of 128": {"local_attention": 128},
    "biases": {"norm_bias": True, "attention_bias": True, "mlp_bias": True},
    "all local": {"layer_types": ["sliding_attention"] * 4},
    "own thetas": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        }
    },
    "transformers 4 names": {
        "global_rope_theta": 300.0,
        "local_rope_theta": 70.0,
        "global_attn_every_n_layers": 2,
    },
}
T5_EXTRAS: dict[str, tuple[str, dict[str, Any]]] = {
    "stock distances": ("t5", {"relative_attention_max_distance": 128}),
    "not gated": ("t5", {"feed_forward_proj": "relu"}),
    "wide heads": ("t5", {"d_kv": 24}),
    "mT5": ("mt5", ENCODERS["t5"]),
    "umT5": ("umt5", ENCODERS["t5"]),
}
MORE_EXTRAS: dict[str, tuple[str, dict[str, Any]]] = {
    "ReLU": ("distilbert", {"activation": "relu"}),
    "embeddings narrower than layers": ("electra", {"embedding_size": 12}),
    "embeddings wider than layers": ("electra", {"embedding_size": 40}),
    "distances of 24": ("deberta", {"max_relative_positions": 24}),
    "keys only": ("deberta", {"pos_att_type": ["c2p"]}),
    "queries only": ("deberta", {"pos_att_type": ["p2c"]}),
    "v1 with absolute positions": (
        "deberta",
        {"position_biased_input": True, "max_position_embeddings": 160},
    ),
    "v1 with token types": ("deberta", {"type_vocab_size": 2}),
    "v1 with narrow embeddings": ("deberta", {"embedding_size": 12}),
    "v1 without distances": ("deberta", {"relative_attention": False}),
    "v1 with v2's options": (
        "deberta",
        {"position_buckets": 16, "share_att_key": True, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3},
    ),
}
# of the variants, those that reach the kernels in another way
IN_TRITON = ("stock", "stock buckets", "c2p only", "p2c only", "convolution", "biases", "not gated", "umT5")
# the others run the same kernels on the same shapes
SAMPLE = [
    *((name, "stock") for name in ("deberta-v2", "modernbert", "bert", "roberta", "t5", "deberta")),
    ("modernbert", "biases"),
    ("umt5", "umT5"),
]
CASES = [
    *((name, "stock", {}) for name in (*ENCODERS, *MORE_ENCODERS)),
    *(("deberta-v2", *case) for case in DEBERTA_EXTRAS.items()),
    *(("modernbert", *case) for case in MODERNBERT_EXTRAS.items()),
    *((encoder, name, extra) for name, (encoder, extra) in (T5_EXTRAS | MORE_EXTRAS).items()),
]


def in_double(encoder: Any) -> Any:
    """Copies the encoder in float64, with torch's norm for that of DeBERTa v1, which computes in float32."""
    encoder = copy.deepcopy(encoder).double()
    for norm in encoder.modules():
        if isinstance(norm, DebertaLayerNorm):
            norm.forward = partial(
                layer_norm,
                normalized_shape=norm.weight.shape,
                weight=norm.weight,
                bias=norm.bias,
                eps=norm.variance_epsilon,
            )
    return encoder


def expected_states(encoder: Any, prompts: list[Tensor]) -> list[Tensor]:
    """Runs every prompt alone, and gives per layer their states laid end to end."""
    with torch.no_grad():
        alone = [
            encoder(ids[None], output_hidden_states=True, return_dict=True).hidden_states for ids in prompts
        ]
    return [torch.cat([state[0] for state in layer]) for layer in zip(*alone, strict=True)]


def packed(prompts: list[Tensor]) -> Any:
    return pack([EncodedPrompt.of_text(ids.numpy().astype(np.int32), 1) for ids in prompts])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "name", "extra"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("backend", ["cpp", "onednn", "reference"])
def test_states(encoder: str, name: str, extra: dict[str, Any], backend: str) -> None:
    check(encoder, extra, backend)


@pytest.mark.parametrize(
    ("encoder", "name", "extra"),
    [
        pytest.param(*case, marks=[] if case[:2] in SAMPLE else pytest.mark.nightly)
        for case in CASES
        if case[1] in IN_TRITON
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_states_in_triton(encoder: str, name: str, extra: dict[str, Any]) -> None:
    # what "stock buckets" is about begins at a distance of 128
    check(encoder, extra, "triton", LENGTHS if name == "stock buckets" else FEW)


def check(encoder: str, extra: dict[str, Any], backend: str, lengths: list[int] = LENGTHS) -> None:
    model = reference_model(encoder, extra)
    prompts = [torch.randint(4, VOCABULARY, (length,)) for length in lengths]
    theirs = model.model.encoder_model
    ours = GLiClassModel.from_gliclass(model, device="cpu", backend=backend).loaded.network.backbone
    batch = packed(prompts)
    with torch.inference_mode():
        found = [state.clone() for state in ours.hidden_states(batch)]
        for number, expected in enumerate(found):
            assert torch.equal(ours.state(number, batch), expected)
    low = expected_states(theirs, prompts)
    exact = expected_states(in_double(theirs), prompts)
    assert len(found) == len(exact)
    for ours_state, exact_state, low_state in zip(found, exact, low, strict=True):
        assert_accurate(ours_state, exact_state, low_state)


def test_roberta_positions_skip_padding_tokens_inside_a_text() -> None:
    model = reference_model("roberta")
    ids = torch.tensor([5, 0, 0, 9, 7, 0, 6])  # 0 is the padding token of the tiny models
    ours = GLiClassModel.from_gliclass(model, device="cpu").loaded.network.backbone
    with torch.inference_mode():
        *_, found = ours.hidden_states(packed([ids + 1, ids]))
    exact = expected_states(copy.deepcopy(model.model.encoder_model).double(), [ids + 1, ids])[-1]
    assert_accurate(found, exact, expected_states(model.model.encoder_model, [ids + 1, ids])[-1])


def test_a_table_of_distances_has_a_bound() -> None:
    slow = {"position_buckets": 5, "max_relative_positions": 512}  # the last bucket begins at 130,560
    with pytest.raises(UnsupportedConfigError, match="a distance of 8192 is not in the last bucket yet"):
        GLiClassModel.from_gliclass(reference_model("deberta-v2", slow), device="cpu")
