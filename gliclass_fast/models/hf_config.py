"""The Hugging Face configuration of a backbone: it is made from a checkpoint's config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto import CONFIG_MAPPING

from gliclass_fast.config import UnsupportedConfigError, one_of


def backbone_of(
    raw: Mapping[str, Any], option: str, vocab_size: int | None, known: Sequence[str]
) -> tuple[str, Any]:
    """Returns a backbone's model type, one of `known`, and its config; else raises UnsupportedConfigError."""
    nested = dict(raw.get(option) or {})
    kind = "GliZNet" if option == "backbone_config" else "GLiClass"
    if not nested:
        raise UnsupportedConfigError(f"config.json has no {option!r}: this is not a {kind} checkpoint")
    model_type = nested.pop("model_type", "deberta-v2")
    one_of(f"{option}.model_type", model_type, known)
    if vocab_size is not None:
        nested["vocab_size"] = vocab_size
    try:
        return model_type, CONFIG_MAPPING[model_type](**nested)
    except (KeyError, TypeError, ValueError, StrictDataclassError) as error:
        raise UnsupportedConfigError(f"{option} is not a valid {model_type} config: {error}") from None
