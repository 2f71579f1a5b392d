"""Configurations: config.json becomes a ModelConfig or a GliznetConfig, which is checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from numbers import Real
from typing import Any

from gliclass_fast.config import (
    CLASS_TOKEN_POOLINGS,
    POOLINGS,
    ModelConfig,
    UnsupportedConfigError,
    dtype_name,
    hf_activation,
    one_of,
    valid_options,
)
from gliclass_fast.models.architectures import ARCHITECTURES
from gliclass_fast.models.architectures.base import GLiClassArchitecture
from gliclass_fast.models.backbone_config import backbone_of
from gliclass_fast.models.bounds import check_bounds
from gliclass_fast.models.decoders import DECODERS
from gliclass_fast.models.encoders import ENCODERS
from gliclass_fast.models.gliznet.config import GliznetConfig


def read_config(raw: Mapping[str, Any]) -> ModelConfig | GliznetConfig:
    """Returns the configuration of a checkpoint of either kind, from its parsed config.json.

    Raises UnsupportedConfigError, which names the option and the supported values.
    """
    check_bounds(raw)
    with valid_options("config.json"):
        return GliznetConfig.from_raw(raw) if raw.get("model_type") == "gliznet" else _gliclass(raw)


def _gliclass(raw: Mapping[str, Any]) -> ModelConfig:
    name = raw.get("architecture_type")
    name = "uni-encoder" if name is None else name
    one_of("architecture_type", name, [each for each in ARCHITECTURES if each != "gliznet"])
    architecture = ARCHITECTURES[name].Architecture
    assert issubclass(architecture, GLiClassArchitecture)
    # where the reference resizes the embedding to the file's own vocabulary size, that size counts
    resized = raw.get("vocab_size") if architecture.resizes_vocabulary else None
    model_type, backbone = backbone_of(raw, "encoder_config", resized, architecture.backbones())
    backbone_config = architecture.registry[model_type].config_from(backbone)
    vocab_size = raw.get("vocab_size") or backbone_config.vocab_size
    given = {name: value for name, value in raw.items() if value is not None}
    options: dict[str, Any] = {
        field.name: _typed(field.name, given[field.name], type(field.default))
        for field in fields(ModelConfig)
        if isinstance(field.default, (bool, int, float, str)) and field.name in given
    }
    # null counts as false to the reference; other options have their default then
    switches = [field.name for field in fields(ModelConfig) if isinstance(field.default, bool)]
    options |= {name: False for name in switches if name in raw and raw[name] is None}
    for place, token in enumerate(("class_token_index", "text_token_index", "example_token_index")):
        index = int(given.get(token, -1))
        options[token] = vocab_size + place if index == -1 else index
    if "decoder" in architecture.parts:
        options["decoder_config"] = DECODERS[model_type].config_from(backbone)
    if "label_backbone" in architecture.parts:
        options["label_model_type"], label_backbone = backbone_of(
            raw, "label_model_config", None, architecture.backbones()
        )
        label_module = ENCODERS[options["label_model_type"]]
        options["label_backbone_config"] = label_module.config_from(label_backbone)
        options["label_model_name"] = given.get("label_model_name")
    if "recurrent_halt_threshold" in raw:  # null says never
        options["recurrent_halt_threshold"] = float(raw["recurrent_halt_threshold"] or 0)
    options |= architecture.fixed
    activation = options.get("projector_hidden_act", "gelu")
    options["projector_hidden_act"] = hf_activation("projector_hidden_act", activation)
    config = ModelConfig(
        architecture_type=name,
        model_type=model_type,
        backbone_config=backbone_config,
        hidden_size=int(given.get("hidden_size", backbone_config.hidden_size)),
        vocab_size=vocab_size,
        dtype=dtype_name(given.get("dtype", given.get("torch_dtype"))),
        **options,
    )
    one_of("scorer_type", config.scorer_type, architecture.scorers())
    _check(config)
    architecture.check(config, given)
    return config


def _typed(option: str, value: Any, kind: type) -> Any:
    """Returns the value of an option; raises UnsupportedConfigError where it is of another type."""
    if kind is bool and value in (0, 1):
        return bool(value)
    known = {bool: bool, str: str}.get(kind, Real)
    if not isinstance(value, known):
        raise UnsupportedConfigError(
            f"{option}={value!r} in config.json is not a value of type {kind.__name__}"
        )
    return kind(value)


def _check(config: ModelConfig) -> None:
    """Raises UnsupportedConfigError for options that do not go together."""
    backbone = config.backbone_config
    one_of("pooling_strategy", config.pooling_strategy, POOLINGS)
    one_of("class_token_pooling", config.class_token_pooling, CLASS_TOKEN_POOLINGS)
    layers = backbone.num_hidden_layers
    if not -layers - 1 <= config.encoder_layer_id <= layers:
        raise UnsupportedConfigError(
            f"encoder_layer_id={config.encoder_layer_id}: the backbone has {layers} layers"
        )
