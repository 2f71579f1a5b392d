"""ModelConfig: everything the engine reads from a checkpoint's config.json, checked once and frozen."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    """A GLiClass checkpoint, by config.json's field names. Encoders are the backbones' own Configs."""

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
    decoder: Any = None  # of encoder-decoders
    label_encoder: Any = None  # of bi-encoders, as is the rest
    label_model_type: str | None = None
    label_model_name: str | None = None  # where the tokenizer of the label tower is

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """From the parsed config.json. Raises UnsupportedConfigError naming option and supported values."""
        architecture_type = raw.get("architecture_type") or "uni-encoder"
        # GliZNet has a config.json of its own kind
        known = [name for name in supported("architectures") if name != "gliznet"]
        _one_of("architecture_type", architecture_type, known)
        architecture = component("architectures", architecture_type)
        # where the reference resizes the embedding to the file's own vocabulary size, that one counts
        resized = raw.get("vocab_size") if architecture.RESIZES_VOCABULARY else None
        model_type, backbone = backbone_of(raw, "encoder_config", resized, architecture.backbones())
        encoder = component("encoders", model_type).Config.from_hf(backbone)
        vocab_size = raw.get("vocab_size") or encoder.vocab_size

        def read(name: str, default: Any) -> Any:
            value = raw.get(name)
            return default if value is None else value

        def token(name: str, offset: int) -> int:
            value = read(name, -1)
            return vocab_size + offset if value == -1 else int(value)

        config = cls(
            architecture_type=architecture_type,
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
            dtype=dtype_name(read("dtype", raw.get("torch_dtype"))),
        )
        if "decoder" in architecture.PARTS:
            decoder = component("decoders", model_type)
            config = replace(config, decoder=decoder.Config.from_hf(backbone))
        if "label_encoder" in architecture.PARTS:
            label_model_type, label_backbone = backbone_of(
                raw, "label_model_config", None, architecture.backbones()
            )
            config = replace(
                config,
                label_encoder=component("encoders", label_model_type).Config.from_hf(label_backbone),
                label_model_type=label_model_type,
                label_model_name=raw.get("label_model_name"),
            )
        _one_of("scorer_type", config.scorer_type, architecture.scorers())
        config._check()
        architecture.check(config)
        if config.scorer_type == "hopfield" and read("max_labels_alloc", "dynamic") != "dynamic":
            raise UnsupportedConfigError(
                f"max_labels_alloc={raw['max_labels_alloc']!r} with scorer_type='hopfield': its softmax "
                "would run over empty slots; supported: 'dynamic'"
            )
        return config

    def _check(self) -> None:
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
        for option in ("class_token_index", "text_token_index"):
            index = getattr(self, option)
            if self.architecture_type != "bi-encoder" and not 0 <= index < self.encoder.vocab_size:
                raise UnsupportedConfigError(
                    f"{option}={index} is not one of the encoder's {self.encoder.vocab_size} tokens"
                )
        width = self.encoder.hidden_size
        replaced = self.use_segment_embeddings or self.architecture_type == "bi-encoder-fused"
        if replaced and getattr(self.encoder, "embedding_size", width) != width:
            raise UnsupportedConfigError(
                f"encoder_config.embedding_size={self.encoder.embedding_size} with use_segment_embeddings or "
                f"architecture_type='bi-encoder-fused' is not supported; supported: {width}, the hidden_size"
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


def backbone_of(
    raw: Mapping[str, Any], option: str, vocab_size: int | None, known: Sequence[str]
) -> tuple[str, Any]:
    """The model type of a backbone, one of `known`, and its Hugging Face config."""
    nested = dict(raw.get(option) or {})
    kind = "GliZNet" if option == "backbone_config" else "GLiClass"
    if not nested:
        raise UnsupportedConfigError(f"config.json has no {option!r}: this is not a {kind} checkpoint")
    model_type = nested.pop("model_type", "deberta-v2")
    _one_of(f"{option}.model_type", model_type, known)
    if vocab_size is not None:
        nested["vocab_size"] = vocab_size
    try:
        return model_type, CONFIG_MAPPING[model_type](**nested)
    except (KeyError, TypeError, ValueError, StrictDataclassError) as error:
        raise UnsupportedConfigError(f"{option} is not a valid {model_type} config: {error}") from None


def refuse(config: Any, architecture_type: str, **supported: Any) -> None:
    """Raises UnsupportedConfigError for options that differ from the one value an architecture knows."""
    for option, value in supported.items():
        if getattr(config, option) != value:
            raise UnsupportedConfigError(
                f"{option}={getattr(config, option)!r} with architecture_type={architecture_type!r} is not "
                f"supported; supported: {value!r}"
            )


def dtype_name(dtype: Any) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def hf_activation(option: str, name: str) -> str:
    """Our name of a Hugging Face activation."""
    _one_of(option, name, ACTIVATION_OF_HF)
    return ACTIVATION_OF_HF[name]


def supported(package: str) -> list[str]:
    """The config strings a subpackage has a file for: encoders, scorers or architectures."""
    folder = importlib.import_module(f"gliclass_fast.models.{package}")
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(folder.__path__))


def _module(package: str, option: str, name: str) -> Any:
    _one_of(option, name, supported(package))
    return importlib.import_module(f"gliclass_fast.models.{package}.{name.replace('-', '_')}")


def component(package: str, name: str) -> Any:
    """The module of a config string: `component("scorers", "cross-attn")` is `scorers/cross_attn.py`."""
    return _module(package, package.removesuffix("s"), name)


def _one_of(option: str, value: Any, values: Any) -> None:
    if value not in values:
        raise UnsupportedConfigError(
            f"{option}={value!r} is not supported; supported: {', '.join(map(str, values))}"
        )
