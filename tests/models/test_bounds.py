"""Options of config.json that no model can have are refused before anything is built of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gliclass_fast.config import ModelConfig, UnsupportedConfigError
from gliclass_fast.models.configuration import read_config
from tests.refusal import refused
from tests.tiny import backbone_config

ABSURD = (10**9, 10**30, -5, 1.5, "32", math.nan, math.inf, True, [], {})
SIZES = {
    "bert": ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
             "max_position_embeddings", "type_vocab_size", "pad_token_id", "num_labels"),
    "deberta-v2": ("position_buckets", "max_relative_positions", "conv_kernel_size", "embedding_size"),
    "modernbert": ("local_attention", "head_dim"),
    "t5": ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
           "relative_attention_max_distance"),
}  # fmt: skip
TOP = ("hidden_size", "vocab_size", "class_token_index", "text_token_index", "scorer_num_heads", "num_labels",
       "scorer_mlp_hidden_size", "encoder_layer_id", "recurrent_steps", "calibrator_hidden_size")  # fmt: skip


ROPE = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}


def raw_config(backbone: str, **options: Any) -> dict[str, Any]:
    return {"encoder_config": backbone_config(backbone).to_dict(), "hidden_size": 32, "vocab_size": 263,
            "class_token_index": 260, "text_token_index": 261, **options}  # fmt: skip


def test_a_plain_config_is_read() -> None:
    for backbone in SIZES:
        assert read_config(raw_config(backbone)).hidden_size == 32


@pytest.mark.parametrize(("backbone", "option"), [(each, name) for each in SIZES for name in SIZES[each]])
def test_sizes_of_a_backbone(backbone: str, option: str) -> None:
    for value in ABSURD:
        raw = raw_config(backbone)
        raw["encoder_config"][option] = value
        refused(lambda raw=raw: read_config(raw), rf"encoder_config\.{option}=")  # type: ignore[misc]


@pytest.mark.parametrize("option", TOP)
def test_sizes_at_the_top(option: str) -> None:
    for value in ABSURD:
        refused(lambda value=value: read_config(raw_config("bert", **{option: value})), rf"{option}=")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("encoder_config", 5, "encoder_config=5"),
        ("encoder_config", "x", "encoder_config='x'"),
        ("encoder_config", {"model_type": "bert", "num_attention_heads": 7}, "does not divide hidden_size"),
        ("encoder_config", {"model_type": ["bert"]}, "encoder_config.model_type"),
        ("encoder_config", {"model_type": "bert", "layer_norm_eps": math.nan}, "layer_norm_eps=nan"),
        ("encoder_config", {"model_type": "bert", "dtype": "os"}, r"encoder_config\.dtype='os'"),
        ("encoder_config", {"model_type": "bert", "to_dict": 1}, r"encoder_config\.to_dict is no option"),
        ("encoder_config", {"model_type": "bert", "id2label": 5}, r"is not (a )?valid"),
        ("encoder_config", {"model_type": "roberta", "pad_token_id": 600}, "leaves -89 tokens"),
        ("encoder_config", {"model_type": "deberta-v2", "position_buckets": None}, "position_buckets=None"),
        (
            "encoder_config",
            {"model_type": "modernbert", "layer_types": ["full_attention"]},
            r"layer[_ ]types",
        ),
        ("encoder_config", {"model_type": "bert", "is_causal": True}, r"encoder_config\.is_causal=true"),
        ("encoder_config", {"model_type": "t5", "is_causal": True}, r"encoder_config\.is_causal=true"),
        ("encoder_config", {"model_type": "bert", "layer_norm_eps": 10**400}, "layer_norm_eps=1000"),
        ("encoder_config", {"model_type": "t5", "relative_attention_num_buckets": 3}, "num_buckets=3"),
        ("encoder_config", {"model_type": "t5", "relative_attention_max_distance": 8}, "max_distance=8"),
        ("encoder_config", {"model_type": "deberta-v2", "conv_kernel_size": 3, "conv_groups": 5}, "groups=5"),
        ("encoder_config", {"model_type": "deberta-v2", "pos_att_type": ["c2p", "c2p"]}, "a term twice"),
        ("encoder_config", {"model_type": "deberta-v2", "conv_kernel_size": 4}, "conv_kernel_size=4"),
        ("encoder_config", {"model_type": "modernbert", "local_rope_theta": None}, "rope_theta=None"),
        ("encoder_config", {"model_type": "modernbert", "global_rope_theta": 0}, "rope_theta=0"),
        ("encoder_config", {"model_type": "llama", "rope_theta": None}, "rope_theta=None"),
        *(
            ("encoder_config", {"model_type": "llama", "rope_parameters": {**ROPE, name: value}}, f"{name}=")
            for name in ROPE
            for value in (0, -1.0, math.nan, "2", [])
            if name != "rope_type"
        ),
        (
            "encoder_config",
            {"model_type": "modernbert", "rope_parameters": {"full_attention": {"rope_theta": "x"}}},
            r"encoder_config\.rope_parameters\.full_attention\.rope_theta='x'",
        ),
        ("label_model_config", [1], "label_model_config="),
        ("architecture_type", [], "architecture_type="),
        ("prompt_first", "false", "prompt_first='false'"),
        ("scorer_type", 3, "scorer_type=3"),
        ("dtype", [], "dtype="),
        ("recurrent_halt_threshold", "x", "recurrent_halt_threshold='x'"),
        ("to_dict", 1, "to_dict is no option"),
    ],
)
def test_options_of_a_wrong_kind(option: str, value: Any, message: str) -> None:
    refused(lambda: read_config(raw_config("bert", **{option: value})), message)


def test_forms_that_the_reference_takes() -> None:
    """A foreign head_dim counts nowhere; "none" is no term; null is false where the default is true."""
    raw = raw_config("deberta-v2", embed_class_token=None)
    raw["encoder_config"] |= {
        "factor": "of another model",
        "head_dim": 8,
        "pos_att_type": "none",
        "hidden_act": "gelu_python",
    }
    config = read_config(raw)
    assert isinstance(config, ModelConfig) and not config.embed_class_token
    backbone = config.backbone_config
    assert (backbone.head_width, backbone.position_terms, backbone.activation) == (16, (), "gelu")
    raw = raw_config("t5")
    raw["encoder_config"] |= {"num_decoder_layers": 0}
    assert read_config(raw).backbone_config.num_hidden_layers == 2
    with pytest.raises(UnsupportedConfigError, match="without layers"):
        read_config(raw | {"architecture_type": "encoder-decoder"})
