"""Configurations of GLiClass checkpoints: `ModelConfig` is what the engine reads of config.json, checked
once and frozen; `GLiClassModelConfig` is the whole file, as the reference hands it to its users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PretrainedConfig

ACTIVATION_OF_HF = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
POOLINGS = ("first", "last", "avg", "sum", "max", "rms", "abs_max", "abs_avg", "pass")
CLASS_TOKEN_POOLINGS = ("first", "average")


class UnsupportedConfigError(ValueError):
    """Reports that a checkpoint asks for something that the engine does not have, and lists what exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Describes a GLiClass checkpoint, by config.json's field names and with its defaults.

    Backbones have configurations of their own.
    """

    architecture_type: str
    model_type: str
    backbone_config: Any
    hidden_size: int
    vocab_size: int
    class_token_index: int
    text_token_index: int
    example_token_index: int
    scorer_type: str = "simple"
    pooling_strategy: str = "first"
    class_token_pooling: str = "first"
    embed_class_token: bool = True
    extract_text_features: bool = False
    prompt_first: bool = False
    normalize_features: bool = False
    projector_hidden_act: str = "gelu"
    scorer_num_heads: int = 16
    scorer_mlp_hidden_size: int = 1024
    use_lstm: bool = False
    squeeze_layers: bool = False
    encoder_layer_id: int = -1
    use_segment_embeddings: bool = False
    # the next nine are for `decoder-kv` alone
    sep_token_index: int = -1
    scorer_encoder_num_layers: int = 2
    recurrent_steps: int = 1
    recurrent_inference: bool = True
    recurrent_inference_max_steps: int = 0  # 0: as many as recurrent_steps
    recurrent_halt_threshold: float = 0.01  # 0: never halt
    recurrent_read_text: bool = False
    problem_type: str = "single_label_classification"
    multimodal: bool = False
    use_calibrator: bool = False
    calibrator_hidden_size: int = 256
    calibrator_beta_max: float = 3.0
    calibrator_use_bias: bool = False
    dtype: str | None = None  # the one that config.json asks to compute in
    decoder_config: Any = None  # for encoder-decoders only
    label_backbone_config: Any = None  # for bi-encoders only, as is the rest
    label_model_type: str | None = None
    label_model_name: str | None = None  # where the tokenizer of the label tower is

    @property
    def last_label_has_the_rest(self) -> bool:
        """Tells whether the mean of a prompt's last label is that of all that follows it, the text too."""
        return self.class_token_pooling == "average" and not self.extract_text_features


# what the reference gives the options that a config.json leaves out, beside those of `GLiClassModelConfig`;
# it takes them by position in this order
STOCK_DEFAULTS: dict[str, Any] = {
    "class_token_index": -1,
    "text_token_index": -1,
    "example_token_index": -1,
    "ignore_index": -100,
    "hidden_size": None,
    "projector_hidden_act": "gelu",
    "vocab_size": None,
    "problem_type": "single_label_classification",
    "max_num_classes": 25,
    "use_lstm": False,
    "initializer_range": 0.03,
    "scorer_type": "simple",
    "scorer_num_heads": 16,
    "scorer_mlp_hidden_size": 1024,
    "scorer_attn_dropout": 0.1,
    "pooling_strategy": "first",
    "class_token_pooling": "first",
    "focal_loss_alpha": 0.5,
    "focal_loss_gamma": 2,
    "focal_loss_reduction": None,
    "logit_scale_init_value": 2.6592,
    "normalize_features": False,
    "extract_text_features": False,
    "max_labels_alloc": "dynamic",
    "contrastive_loss_coef": 0,
    "architecture_type": "uni-encoder",
    "prompt_first": False,
    "squeeze_layers": False,
    "layer_wise": False,
    "encoder_layer_id": -1,
    "embed_class_token": True,
    "dropout": 0.1,
    "use_segment_embeddings": False,
    "scorer_encoder_num_layers": 2,
    "scorer_full_sequence": False,
    "recurrent_steps": 1,
    "recurrent_min_steps": 1,
    "recurrent_inference": True,
    "recurrent_inference_max_steps": None,
    "recurrent_halt_threshold": 0.01,
    "recurrent_improvement_coef": 0.1,
    "recurrent_improvement_margin": 0.05,
    "recurrent_bptt_steps": None,
    "recurrent_read_text": False,
    "recurrent_confidence_coef": 0.0,
    "recurrent_confidence_mode": "relative",
    "recurrent_confidence_margin": 0.0,
    "use_calibrator": False,
    "calibrator_hidden_size": 256,
    "calibrator_beta_max": 3.0,
    "calibrator_dropout": 0.1,
    "calibrator_use_bias": False,
    "multimodal": False,
    "freeze_media_encoders": True,
    "use_embedding_projection": None,
}


class GLiClassModelConfig(PretrainedConfig):  # type: ignore[misc]
    """Takes the place of `gliclass.GLiClassModelConfig`, with its options, defaults and file format."""

    model_type = "GLiClass"
    is_composition = True  # as the reference says of its own, for code that asks
    hidden_size: int | None
    vocab_size: int | None
    use_embedding_projection: bool | None

    def __init__(
        self,
        encoder_config: Any = None,
        encoder_model: str | None = None,
        label_model_config: Any = None,
        label_model_name: str | None = None,
        *positional: Any,
        **options: Any,
    ) -> None:
        """Takes the options of config.json by their names, or by position in the reference's order.

        Args:
            encoder_config: the backbone's configuration or its fields; default: that of DeBERTa-v2.
            encoder_model: the repository that the backbone's weights came from.
            label_model_config: the same as `encoder_config` for a label tower; it needs `label_model_name`.
            label_model_name: the repository or folder of the label tower's tokenizer.

        Raises TypeError for more positions than there are options, and for an option that is given twice.
        """
        options = all_by_name(tuple(STOCK_DEFAULTS), positional, options)
        self.encoder_config = _backbone(encoder_config)
        self.encoder_model_name = encoder_model or options.pop("encoder_model_name", None)
        self.label_model_config = None if label_model_name is None else _backbone(label_model_config)
        self.label_model_name = label_model_name
        for name, default in STOCK_DEFAULTS.items():
            setattr(self, name, options.pop(name, default))
        # None has the reference look whether the backbone is EmbeddingGemma 2, which the engine does not run
        self.use_embedding_projection = bool(self.use_embedding_projection)
        text = self.encoder_config.get_text_config()
        self.hidden_size = self.hidden_size or getattr(text, "hidden_size", None)
        self.vocab_size = self.vocab_size or getattr(text, "vocab_size", None)
        for place, name in enumerate(("class_token_index", "text_token_index", "example_token_index")):
            if getattr(self, name) == -1 and self.vocab_size is not None:
                setattr(self, name, self.vocab_size + place)
        self.pad_token_id = options.pop("pad_token_id", getattr(text, "pad_token_id", None))
        super().__init__(problem_type=self.problem_type, **options)


def all_by_name(names: Sequence[str], positional: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments by their names, of which some are given by position, in the order of `names`.

    Raises TypeError for more positions than names, and for an argument that is given twice.
    """
    if len(positional) > len(names):
        raise TypeError(f"{len(positional)} arguments are given by position, but only {len(names)} have one")
    placed = dict(zip(names, positional, strict=False))
    if twice := [name for name in placed if name in named]:
        raise TypeError(f"{', '.join(twice)} is given by position and by name")
    return {**placed, **named}


def _backbone(given: Any) -> PretrainedConfig:
    if isinstance(given, PretrainedConfig):
        return given
    fields = dict(given or {})
    model_type = fields.setdefault("model_type", "deberta-v2")
    if model_type not in CONFIG_MAPPING:
        return PretrainedConfig.from_dict(fields)
    return CONFIG_MAPPING[model_type].from_dict(fields)


@contextmanager
def valid_options(source: str) -> Iterator[None]:
    """Turns every error within the block into an UnsupportedConfigError of one line about `source`.

    The block reads the options of a checkpoint. transformers reads them too, and raises errors of many types
    for options of a wrong type.
    """
    try:
        yield
    except UnsupportedConfigError:
        raise
    except (
        ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, StrictDataclassError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        raise UnsupportedConfigError(f"{source} is not valid: {type(error).__name__}: {reason}") from error


def refuse(config: Any, architecture_type: str, **supported: Any) -> None:
    """Raises UnsupportedConfigError for options that differ from the one value an architecture knows."""
    for option, value in supported.items():
        if getattr(config, option) != value:
            raise UnsupportedConfigError(
                f"{option}={getattr(config, option)!r} with architecture_type={architecture_type!r} is not "
                f"supported; supported: {value!r}"
            )


def dtype_name(dtype: Any) -> str | None:
    """Returns the name of a dtype without "torch.", or None for None."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


def hf_activation(option: str, name: str) -> str:
    """Returns our name of a Hugging Face activation; raises UnsupportedConfigError for an unknown one."""
    one_of(option, name, ACTIVATION_OF_HF)
    return ACTIVATION_OF_HF[name]


def one_of(option: str, value: Any, values: Iterable[Any]) -> None:
    """Raises UnsupportedConfigError, which lists the values, where `value` is none of them."""
    if value not in values:
        raise UnsupportedConfigError(
            f"{option}={value!r} is not supported; supported: {', '.join(map(str, values))}"
        )
