"""What a pipeline is made of: a model, its tokenizer and its settings, which may be set anew at any time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gliclass_fast.engine.engine import Engine
from gliclass_fast.pipeline.checked_attributes import Fixed, Setting
from gliclass_fast.pipeline.loading import (
    fitting_labels_tokenizer,
    is_name,
    labels_tokenizer_of,
    load_model,
    tokenizer_beside,
    tokenizer_of,
)
from gliclass_fast.runtime.adapters import AdapterInfo
from gliclass_fast.runtime.device import resolve_device
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.text import arguments
from gliclass_fast.text.arguments import OnTruncation
from gliclass_fast.text.prompts import Markers


class PipelineSettings:
    """Holds a model, its tokenizer, and the reference's settings."""

    _engine: Engine | None = None
    _labels_tokenizer: Any
    tokenizer: Setting[Any] = Setting(tokenizer_of)
    max_length: Setting[int | None] = Setting(arguments.check_max_length)
    batch_tokens: Setting[int | None] = Setting(arguments.check_batch_tokens)
    classification_type: Setting[str] = Setting(arguments.check_classification_type)
    on_truncation: Setting[OnTruncation] = Setting(arguments.check_on_truncation)
    label_separator: Setting[str] = Setting(partial(arguments.plain_string, name="label_separator"))
    progress_bar: Setting[bool] = Setting(partial(arguments.check_switch, name="progress_bar"))

    def __init__(
        self,
        model: GLiClassModel | str | Path | Any,
        tokenizer: Any = None,
        max_classes: int = 25,
        max_length: int | None = 1024,
        classification_type: str = "multi-label",
        device: str | torch.device | int | None = None,
        progress_bar: bool = True,
        label_separator: str = ".",
        batch_tokens: int | None = None,
        labels_tokenizer: Any = None,
        warm_up: Sequence[int] = (),
        on_truncation: OnTruncation = "warn",
        **model_options: Any,
    ) -> None:
        """Loads the model and its tokenizers.

        Args:
            model: our model, a folder or repository id, or an already loaded `gliclass` model, whose weights
                are taken.
            tokenizer: a fast tokenizer or its folder or repository id; default: the model's own, if `model`
                is a path or repository id.
            max_classes: has no effect, as any number of labels that fits the window works.
            max_length: the window in tokens, special tokens included; None: the tokenizer's own limit.
            classification_type: "multi-label" or "single-label", unless a call says otherwise.
            device: where to run; default: a GPU where there is one. A device that is named and not there
                gives the CPU, and a warning.
            progress_bar: whether a terminal shows a progress bar, in calls of many texts.
            label_separator: the string that joins the levels of nested labels.
            batch_tokens: tokens per batch, as batches are formed by tokens and not by the number of texts;
                at most 16384 with CUDA graphs.
            labels_tokenizer: the fast tokenizer of a bi-encoder's label tower, or its folder or repository
                id; default: the one that `label_model_name` in config.json names.
            warm_up: sizes of batches, in tokens. They are compiled, and on a GPU recorded as CUDA graphs, now
                and not when the first of them comes; `model.warm_up` has more options.
            on_truncation: what happens where the window cuts a text: "warn" logs its number, once a minute at
                most; "error" raises ValueError before anything runs; "ignore" says nothing.
            model_options: those of `GLiClassModel.from_pretrained`, where `model` is a path or repository id,
                or of `GLiClassModel.from_gliclass`, where it is a `gliclass` model: dtype, quantization,
                on_change and others.

        What is set later as an attribute counts from the next call on, as in the reference.

        Raises:
            TypeError: `model` is of another type, or there is no tokenizer.
            ValueError: a setting is not valid, or the checkpoint is not: `CheckpointError` and
                `UnsupportedConfigError` are of this type.
        """
        self.max_classes, self.max_length, self.batch_tokens = max_classes, max_length, batch_tokens
        self.classification_type, self.on_truncation = classification_type, on_truncation
        self.progress_bar, self.label_separator = progress_bar, label_separator
        if tokenizer is None or (is_name(tokenizer) and tokenizer == model):
            tokenizer = tokenizer_beside(model, model_options)
        self._model = load_model(model, resolve_device(device, fall_back=True), **model_options)
        self._model_options, self.tokenizer = model_options, tokenizer
        self.labels_tokenizer = labels_tokenizer
        if len(warm_up):  # else what an earlier warm-up said of other batches stays
            self.model.warm_up(warm_up)
        self._engine = self.engine  # the tokenizers are checked now

    @property
    def model(self) -> GLiClassModel:
        """Returns the model; another one may be set, as the constructor takes it and with its options."""
        return self._model

    @model.setter
    def model(self, model: Any) -> None:
        options = {} if isinstance(model, GLiClassModel) else self._model_options
        model = load_model(model, self.device, **options)
        known = fitting_labels_tokenizer(model, self._labels_tokenizer)
        self._model, self._labels_tokenizer, self._engine = model, known, None

    @property
    def labels_tokenizer(self) -> Any:
        """Returns the tokenizer of a bi-encoder's label tower, or None; to set one makes another engine."""
        return self._labels_tokenizer

    @labels_tokenizer.setter
    def labels_tokenizer(self, given: Any) -> None:
        self._labels_tokenizer, self._engine = labels_tokenizer_of(self.model.loaded.config, given), None

    @property
    def engine(self) -> Engine:
        """Returns the engine for the settings of now, as a pipeline says it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, max_length={self.max_length})"

    @property
    def device(self) -> torch.device:
        """Returns where the model runs; to set another one moves the model."""
        return self.model.device

    @device.setter
    def device(self, device: str | torch.device | int | None) -> None:
        self.model.to(resolve_device(device, fall_back=True))

    label_token = Fixed(Markers().label)  # the reference's names for the markers of a prompt
    sep_token = Fixed(Markers().sep)
    example_token = Fixed(Markers().example)

    def refresh(self) -> None:
        """Builds the model anew from its checkpoint, or from the live model it was made of.

        Changes of a live model are noticed by themselves, as far as `on_change` and `LiveState` say.
        """
        self.model.refresh()

    def load_adapter(self, adapter_id: str, folder: str | Path) -> None:
        """Loads a LoRA adapter that PEFT saved, for texts that name it in `adapter_ids`.

        It replaces an adapter of the same id. folder: a folder or a repository id.

        Raises CheckpointError where it holds no plain LoRA adapter for this backbone, ValueError for an empty
        id, TypeError for an id or a folder of another type, and changes nothing then.
        """
        self.model.load_adapter(adapter_id, folder)

    def unload_adapter(self, adapter_id: str) -> None:
        """Forgets an adapter; ValueError where none of that id is loaded, or a live model has it."""
        self.model.unload_adapter(adapter_id)

    @property
    def adapters(self) -> list[AdapterInfo]:
        """Describes the loaded adapters: id, folder, rank, bytes, and whether the host holds the tensors."""
        return self.model.adapters.described()
