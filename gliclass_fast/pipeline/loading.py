"""Loading: what a pipeline is given, such as a name, becomes a model or a tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.files import load_tokenizer, resolve_folder
from gliclass_fast.checkpoint.live import unwrapped
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.runtime.pretrained import LOCATION_OPTIONS
from gliclass_fast.text.errors import WrongTokenizer, WrongValue
from gliclass_fast.text.gliznet_tokenizer import GliZNETTokenizer
from gliclass_fast.text.tokenizer import backend_of

logger = logging.getLogger(__name__)


def is_name(given: Any) -> bool:
    """Tells whether something is a path or a repository id."""
    return isinstance(given, (str, Path))


def refuse_own_forward(model: GLiClassModel) -> None:
    """Raises TypeError for a model of a derived class with another forward, which no pipeline calls.

    Warns of another `__call__`, which may add to the output and leave the scores.
    """
    kind = type(model)
    if kind.forward is not GLiClassModel.forward:
        raise TypeError(
            f"{kind.__name__} has a forward of its own, which a pipeline would leave out: derive from the "
            "pipeline instead, or use the gliclass package"
        )
    if kind.__call__ is not GLiClassModel.__call__:
        logger.warning("%s has a __call__ of its own, which pipelines do not call", kind.__name__)


def load_model(model: Any, device: torch.device | None = None, **options: Any) -> GLiClassModel:
    """Returns our model, on `device` where one is given, made from whatever a pipeline may be given.

    options: those of the model, where it is not ours already. Raises TypeError for anything else.
    """
    if isinstance(model, GLiClassModel):
        if options:
            raise TypeError(f"{sorted(options)} go with a path or repository id: this model is loaded")
        refuse_own_forward(model)
        return model if device is None else model.to(device)
    if is_name(model):
        return GLiClassModel.from_pretrained(model, device=device, **options)
    if isinstance(model, torch.nn.Module) and hasattr(unwrapped(model), "config"):
        return GLiClassModel.from_gliclass(model, device=device, **options)
    raise TypeError(f"model must be a GLiClassModel, a path or a repository id, got {type(model).__name__}")


def fitting_labels_tokenizer(model: GLiClassModel, known: Any) -> Any:
    """Returns the tokenizer of a model's label tower: the one that is known, or the one it names."""
    config = model.loaded.config
    return labels_tokenizer_of(config, known if config.label_backbone_config is not None else None)


def tokenizer_of(given: Any) -> Any:
    """Returns the tokenizer of texts: a GliZNETTokenizer, or what `fast_tokenizer` makes of anything else."""
    return given if isinstance(given, GliZNETTokenizer) else fast_tokenizer(given, "tokenizer")


def fast_tokenizer(given: Any, name: str) -> Any:
    """Returns a fast tokenizer, loaded where a path or a repository id is given.

    Raises WrongTokenizer, which says the name of the argument, for anything else.
    """
    tokenizer = load_tokenizer(given) if is_name(given) else given
    try:
        backend_of(tokenizer)
    except ValueError as error:
        raise WrongTokenizer(f"{name}: {error}") from None
    return tokenizer


def tokenizer_beside(model: Any, options: Mapping[str, Any]) -> Any:
    """Returns the tokenizer of a model given by name, from the same revision and subfolder.

    options: those of the model. Raises TypeError where the model is given as an object, and CheckpointError
    where there is no tokenizer.
    """
    if not is_name(model):
        raise TypeError("give a tokenizer, or give the model as a path or repository id that has one")
    hub = {name: options[name] for name in LOCATION_OPTIONS if options.get(name) is not None}
    subfolder = hub.pop("subfolder", "")
    return load_tokenizer(resolve_folder(model, weights=False, **hub) / subfolder)


def labels_tokenizer_of(config: Any, given: Any) -> Any:
    """Returns the tokenizer of a model's label tower, or None where it has none.

    config: the model's `ModelConfig`. given: a tokenizer or its name; default: what config.json names.

    Raises WrongValue where it is given without a tower, ValueError where it is missing, WrongTokenizer where
    it is no fast one, and CheckpointError where it cannot be loaded.
    """
    if config.label_backbone_config is None:
        if given is not None:
            raise WrongValue("labels_tokenizer is for bi-encoders: this model has no label tower")
        return None
    if given is None:
        given = config.label_model_name
        if given is None:
            raise ValueError("config.json names no 'label_model_name': give labels_tokenizer")
    try:
        return fast_tokenizer(given, "labels_tokenizer")
    except CheckpointError as error:
        raise CheckpointError(
            "the label tower's tokenizer, which config.json's "
            f"label_model_name={config.label_model_name!r} or labels_tokenizer= names, cannot be loaded: "
            f"{error}"
        ) from None
