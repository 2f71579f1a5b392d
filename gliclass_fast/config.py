"""ModelConfig: everything the engine reads from a checkpoint's config.json, checked once and frozen."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto import CONFIG_MAPPING

ACTIVATION_OF_HF = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
POOLINGS = ("first", "last", "avg", "sum", "max", "rms", "abs_max", "abs_avg", "pass")
CLASS_TOKEN_POOLINGS = ("first", "average")


class UnsupportedConfigError(ValueError):
    """A checkpoint asks for something the engine does not have; the message lists what exists."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A GLiClass checkpoint, by config.json's field names. `encoder` is the backbone's own Config."""

    architecture_type: str
    model_type: str
    encoder: Any
    scorer_type: str
    pooling_strategy: str
    class_token_pooling: str
    embed_class_token: bool
    extract_text_features: bool
    prompt_first: bool
    normalize_features: bool
    projector_hidden_act: str
    hidden_size: int
    scorer_num_heads: int
    scorer_mlp_hidden_size: int
    use_lstm: bool
    squeeze_layers: bool
    encoder_layer_id: int
    use_segment_embeddings: bool
    use_calibrator: bool
    calibrator_hidden_size: int
    calibrator_beta_max: float
    calibrator_use_bias: bool
    class_token_index: int
    text_token_index: int
    example_token_index: int
    vocab_size: int
    dtype: str | None  # that config.json asks to compute in

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """From the parsed config.json. Raises UnsupportedConfigError naming option and supported values."""
        nested = dict(raw.get("encoder_config") or {})
        if not nested:
            raise UnsupportedConfigError(
                "config.json has no 'encoder_config': this is not a GLiClass checkpoint"
            )
        model_type = nested.pop("model_type", "deberta-v2")
        module = _module("encoders", "encoder_config.model_type", model_type)
        # the file's own vocabulary size counts: the reference resizes the embedding to it
        nested["vocab_size"] = vocab_size = raw.get("vocab_size") or nested.get("vocab_size")
        try:
            backbone = CONFIG_MAPPING[model_type](**nested)
        except (TypeError, ValueError, StrictDataclassError) as error:
            raise UnsupportedConfigError(
                f"encoder_config is not a valid {model_type} config: {error}"
            ) from None
        encoder = module.Config.from_hf(backbone)
        vocab_size = vocab_size or backbone.vocab_size

        def read(name: str, default: Any) -> Any:
            value = raw.get(name)
            return default if value is None else value

        def token(name: str, offset: int) -> int:
            value = read(name, -1)
            return vocab_size + offset if value == -1 else int(value)

        config = cls(
            architecture_type=read("architecture_type", "uni-encoder"),
            model_type=model_type,
            encoder=encoder,
            scorer_type=read("scorer_type", "simple"),
            pooling_strategy=read("pooling_strategy", "first"),
            class_token_pooling=read("class_token_pooling", "first"),
            embed_class_token=bool(read("embed_class_token", True)),
            extract_text_features=bool(read("extract_text_features", False)),
            prompt_first=bool(read("prompt_first", False)),
            normalize_features=bool(read("normalize_features", False)),
            projector_hidden_act=hf_activation("projector_hidden_act", read("projector_hidden_act", "gelu")),
            hidden_size=int(read("hidden_size", encoder.hidden_size)),
            scorer_num_heads=int(read("scorer_num_heads", 16)),
            scorer_mlp_hidden_size=int(read("scorer_mlp_hidden_size", 1024)),
            use_lstm=bool(read("use_lstm", False)),
            squeeze_layers=bool(read("squeeze_layers", False)),
            encoder_layer_id=int(read("encoder_layer_id", -1)),
            use_segment_embeddings=bool(read("use_segment_embeddings", False)),
            use_calibrator=bool(read("use_calibrator", False)),
            calibrator_hidden_size=int(read("calibrator_hidden_size", 256)),
            calibrator_beta_max=float(read("calibrator_beta_max", 3.0)),
            calibrator_use_bias=bool(read("calibrator_use_bias", False)),
            class_token_index=token("class_token_index", 0),
            text_token_index=token("text_token_index", 1),
            example_token_index=token("example_token_index", 2),
            vocab_size=vocab_size,
            dtype=_dtype_name(read("dtype", raw.get("torch_dtype"))),
        )
        config._check()
        if config.scorer_type == "hopfield" and read("max_labels_alloc", "dynamic") != "dynamic":
            raise UnsupportedConfigError(
                f"max_labels_alloc={raw['max_labels_alloc']!r} with scorer_type='hopfield': its softmax "
                "would run over empty slots; supported: 'dynamic'"
            )
        return config

    def _check(self) -> None:
        _module("architectures", "architecture_type", self.architecture_type)
        _module("scorers", "scorer_type", self.scorer_type)
        _one_of("pooling_strategy", self.pooling_strategy, POOLINGS)
        _one_of("class_token_pooling", self.class_token_pooling, CLASS_TOKEN_POOLINGS)
        keeps_rows = self.pooling_strategy == "pass"
        if keeps_rows != (self.scorer_type == "cross-attn"):
            raise UnsupportedConfigError(
                f"scorer_type={self.scorer_type!r} with pooling_strategy={self.pooling_strategy!r}; "
                f"supported: 'cross-attn' with 'pass', the others with any of: {', '.join(POOLINGS[:-1])}"
            )
        if keeps_rows and self.use_calibrator:
            raise UnsupportedConfigError(
                "use_calibrator with pooling_strategy='pass': it reads one text vector; supported: "
                + ", ".join(POOLINGS[:-1])
            )
        layers = self.encoder.num_hidden_layers
        if not -layers - 1 <= self.encoder_layer_id <= layers:
            raise UnsupportedConfigError(
                f"encoder_layer_id={self.encoder_layer_id}: the encoder has {layers} layers"
            )
        needs_same = self.use_lstm or self.use_calibrator or self.scorer_type != "simple"
        if needs_same and self.hidden_size != self.encoder.hidden_size:
            raise UnsupportedConfigError(
                f"hidden_size={self.hidden_size} differs from the encoder's {self.encoder.hidden_size}: "
                "supported with scorer_type='simple' only, without use_lstm and use_calibrator"
            )
        if self.scorer_type == "cross-attn" and self.hidden_size % self.scorer_num_heads:
            raise UnsupportedConfigError(
                f"scorer_num_heads={self.scorer_num_heads} does not divide hidden_size={self.hidden_size}"
            )


def _dtype_name(dtype: Any) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def hf_activation(option: str, name: str) -> str:
    """Our name of a Hugging Face activation."""
    _one_of(option, name, ACTIVATION_OF_HF)
    return ACTIVATION_OF_HF[name]


def supported(package: str) -> list[str]:
    """The config strings a subpackage has a file for: encoders, scorers or architectures."""
    folder = importlib.import_module(f"gliclass_fast.{package}")
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(folder.__path__))


def _module(package: str, option: str, name: str) -> Any:
    _one_of(option, name, supported(package))
    return importlib.import_module(f"gliclass_fast.{package}.{name.replace('-', '_')}")


def component(package: str, name: str) -> Any:
    """The module of a config string: `component("scorers", "cross-attn")` is `scorers/cross_attn.py`."""
    return _module(package, package.removesuffix("s"), name)


def _one_of(option: str, value: Any, values: Any) -> None:
    if value not in values:
        raise UnsupportedConfigError(
            f"{option}={value!r} is not supported; supported: {', '.join(map(str, values))}"
        )
