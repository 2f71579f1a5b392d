"""StockModel: what users of a stock model touch beside its scores, under the names of torch and transformers.

The tensors that it shows are copies of the checkpoint's, on the model's device and in the dtype that was
asked for; those that run are packed, and nobody may change them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gliclass_fast.checkpoint.live import tied_to
from gliclass_fast.config import GLiClassModelConfig, dtype_name
from gliclass_fast.runtime.adapters import AdapterLibrary
from gliclass_fast.runtime.forward import GLiClassOutput, forward
from gliclass_fast.runtime.loaded import LoadedNetwork
from gliclass_fast.runtime.origin import Origin
from gliclass_fast.runtime.positions import by_position_too
from gliclass_fast.text.arguments import adapters_per_text
from gliclass_fast.text.errors import WrongType
from gliclass_fast.text.tensors import check_slots, read_tensors


class IncompatibleKeys(NamedTuple):
    """Holds what `load_state_dict` returns: the names that had no tensor, and those that nothing uses."""

    missing_keys: list[str]
    unexpected_keys: list[str]


WITHOUT_WEIGHTS = (
    "a model needs weights: from_pretrained loads a checkpoint, and from_gliclass takes those of a gliclass "
    "model, such as gliclass.GLiClassModel(config)"
)
_INSTEAD = (
    ": the network runs from packed weights and is no torch module. parameters() and state_dict() give the "
    "checkpoint's tensors; to train or edit a model, use the gliclass package and GLiClassModel.from_gliclass"
)
_OF_TRANSFORMERS = (  # people use these of its models, whose class takes a second to import
    "model", "get_input_embeddings", "set_input_embeddings", "resize_token_embeddings", "tie_weights",
    "gradient_checkpointing_enable", "gradient_checkpointing_disable", "is_gradient_checkpointing",
    "enable_input_require_grads", "disable_input_require_grads", "get_output_embeddings", "init_weights",
    "set_attn_implementation", "add_adapter", "set_adapter", "enable_adapters", "disable_adapters",
    "active_adapters", "delete_adapter", "base_model", "get_memory_footprint", "calibrator", "post_init",
    "add_calibrator", "remove_calibrator", "update_decoder_cache", "classify_from_decoder_cache", "generate",
)  # fmt: skip
_STEPS = ("use_recurrence",)  # False does not mean that it is left out
_SAVED_ALIKE = ("max_shard_size", "token", "save_peft_format", "save_original_format")  # change nothing here


def _of_dtype(options: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Returns options of config.json that name a dtype, also those of a backbone that name one."""
    parts = {
        name: {**{key: each for key, each in part.items() if key != "torch_dtype"}, "dtype": dtype}
        for name, part in options.items()
        if isinstance(part, dict) and part.keys() & {"dtype", "torch_dtype"}
    }
    return {**options, **parts, "dtype": dtype}


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


class StockModel:
    """The base of the model: a forward pass over padded tensors, and the tensors of its checkpoint."""

    origin: Origin
    loaded: LoadedNetwork
    adapters: AdapterLibrary
    training = False
    config_class, base_model_prefix, main_input_name = GLiClassModelConfig, "model", "input_ids"

    @property
    def device(self) -> torch.device:
        return self.loaded.device

    @property
    def dtype(self) -> torch.dtype:
        return self.loaded.dtype

    @classmethod
    def can_generate(cls) -> bool:
        return False

    @classmethod
    def _from_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Raises TypeError: `AutoModel.from_config` makes random weights by this name."""
        raise TypeError(WITHOUT_WEIGHTS)

    def follow_origin(self) -> None:
        raise NotImplementedError

    def refresh(self) -> None:
        raise NotImplementedError

    @by_position_too
    def __call__(
        self,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        class_input_ids: Tensor | None = None,
        class_attention_mask: Tensor | None = None,
        labels_mask: Tensor | None = None,
        max_num_classes: int | None = None,
        output_text_embeddings: bool | None = None,
        output_class_embeddings: bool | None = None,
        return_dict: bool | None = True,
        token_type_ids: Tensor | None = None,
        adapter_ids: Any = None,
        **refused: Any,
    ) -> GLiClassOutput | tuple[Tensor, ...]:
        """Runs padded inputs, as `prepare_inputs` of a pipeline makes them; N texts, S tokens, K label slots.

        Arguments may come by position, in the reference's order: `call_positions` of its architecture.

        Args:
            input_ids: int [N, S]; plain bi-encoders take [N, 1, S] too, as in the reference.
            attention_mask: as input_ids, of any dtype, 0 for padding, on either side; default: no padding.
                Ids that are padding may have any value; the others are tokens of the vocabulary.
            class_input_ids: for bi-encoders the labels, int [N, K, S']; for encoder-decoders the sequence of
                all labels, int [N, S']. Elsewhere it has no effect, as in the reference.
            class_attention_mask: as attention_mask, of the shape of class_input_ids.
            labels_mask: [N, K], for bi-encoders, 1 for the slots that hold a label, of which every text has
                one; default: every slot does. Elsewhere it has no effect, as in the reference.
            max_num_classes: K, from 1 to 2**20, where labels are in input_ids; default: that of the
                configuration, which counts alone for encoder-decoders. For bi-encoders, and with
                `decoder-kv`, where K is the largest number of labels of a text, it has no effect.
            output_text_embeddings: whether the output has those of the texts.
            output_class_embeddings: whether it has those of the labels.
            return_dict: False gives a tuple that holds the logits alone; of a model with a calibrator the
                output, as in the reference.
            token_type_ids: has no effect, as in the reference's backbones.
            adapter_ids: the id of every text's adapter, None for the model without one; see `load_adapter`.

        Raises:
            TypeError: an argument is not supported, is missing, or is no tensor of the kind above.
            ValueError: a text has no label, no token, or more tokens than the model reads; an id is no token;
                a tensor has another shape; or an adapter is not loaded.
        """
        off = {name: None if name in _STEPS else False for name in refused}
        if wrong := [name for name, value in refused.items() if value is not None and value is not off[name]]:
            raise WrongType(
                f"{', '.join(wrong)} is not supported: the engine returns logits and embeddings of the steps "
                "that the checkpoint asks for, and does not train; for other steps, hidden states, "
                "attentions, losses and gradients use the gliclass package"
            )
        self._follow_adapters(adapter_ids)
        loaded, asked = self.loaded, check_slots(max_num_classes)
        with loaded.inference():  # tensors may come from a GPU, which another thread may be recording on
            inputs = read_tensors(
                loaded.config, input_ids, attention_mask, class_input_ids, class_attention_mask, labels_mask,
                loaded.network.takes_slot_axis,
            )  # fmt: skip
        adapters = adapters_per_text(adapter_ids, len(inputs.text_rows.kept), self.adapters)
        if inputs.labels_mask is not None:
            slots = inputs.labels_mask.shape[1]
        elif inputs.label_rows is None and asked is not None:
            slots = asked
        else:
            slots = int(getattr(self.origin.config, "max_num_classes", 0))
        wanted = {"text_embeddings": output_text_embeddings, "class_embeddings": output_class_embeddings}
        of_texts = [None if each is None else self.adapters[each] for each in adapters]
        found = forward(loaded, inputs, slots, any(wanted.values()), of_texts)
        output = GLiClassOutput(**{name: each for name, each in found.items() if wanted.get(name, True)})
        whole = return_dict is not False or output.uncalibrated_logits is not None
        return output if whole else (output.logits,)

    forward = __call__

    def adapters_per_text(self, adapter_ids: Any, count: int) -> list[str | None]:
        """Returns the id of every text's adapter, None for none, of the adapters that there are now.

        Raises TypeError, or ValueError for an id that is not among them.
        """
        self._follow_adapters(adapter_ids)
        return adapters_per_text(adapter_ids, count, self.adapters)

    def _follow_adapters(self, adapter_ids: Any) -> None:
        """Follows the origin where a call names adapters, as a live model may have others by now."""
        if adapter_ids is not None and self.origin.changed():
            self.follow_origin()

    def __getattr__(self, name: str) -> Any:
        """Raises AttributeError, which says what stands in for what torch's and transformers' models have."""
        instead = _INSTEAD if hasattr(nn.Module, name) or name in _OF_TRANSFORMERS else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{instead}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises AttributeError for another forward, which no call would use."""
        if name in ("forward", "__call__"):
            raise AttributeError(
                f"{name} of {type(self).__name__} cannot be set: pipelines run the network without it. "
                "Derive from the pipeline, or use the gliclass package"
            )
        super().__setattr__(name, value)

    @property
    def name_or_path(self) -> str:
        """Returns what the model was loaded by, as transformers does; "" where it was made of tensors."""
        return str(self.origin.config.name_or_path)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Returns the model for False, as `train` does; raises RuntimeError for True."""
        return self.train(requires_grad)

    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> dict[str, Tensor]:
        """Returns the checkpoint's tensors by their stock names, in the dtype asked for, on its device.

        Where no dtype was asked for, they have the one in which they are stored.

        They are copies: to change them changes nothing here, before they are given to `load_state_dict`.

        prefix: what stands before every name. keep_vars: has no effect.
        """
        return {prefix + name: self._shown(tensor) for name, tensor in self.origin.read_tensors().items()}

    @property
    def _names_dtype(self) -> bool:
        """Tells whether somebody asked for a dtype; else a GPU's 16 bit is the engine's own matter."""
        return self.settings.dtype is not None

    def _shown(self, tensor: Tensor, on: Any = None) -> Tensor:
        """Returns a copy, on the model's device or another, in the dtype that was asked for, or as stored."""
        dtype = self.dtype if tensor.is_floating_point() and self._names_dtype else tensor.dtype
        return tensor.detach().to(self.device if on is None else on, dtype, copy=True)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Builds the model anew from tensors under stock names, which are copied.

        strict: whether every tensor must have a name of the checkpoint, and every name its tensor; otherwise
        a missing one keeps its value. assign: has no effect.

        Raises TypeError for what is no dict of tensors, RuntimeError where they do not match, and
        CheckpointError for a tensor of the wrong shape; the model then stays as it is.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict of tensors, got {type(state_dict).__name__}")
        current = self.origin.read_tensors()
        missing = [name for name in current if name not in state_dict]
        unexpected = [name for name in state_dict if name not in current]
        if strict and (missing or unexpected):
            raise RuntimeError(f"state_dict does not match: missing {missing}, unexpected {unexpected}")
        for name in current:
            if not isinstance(value := state_dict.get(name, current[name]), Tensor):
                raise TypeError(f"state_dict[{name!r}] must be a tensor, got {type(value).__name__}")
        ties = tied_to(current)  # a tensor of several names takes the last value given to one, as in torch
        given_to = {ties.get(name, name): state_dict[name] for name in current if name in state_dict}
        copies = {
            name: _copied(given_to[name] if name in given_to else current[name])
            for name in current
            if name not in ties
        }
        tensors = {name: copies[ties.get(name, name)] for name in current}
        given = Origin(self.origin.options(), partial(dict, tensors), "the given state_dict")
        given.on_change = self.origin.on_change
        before, self.origin = self.origin, given
        try:
            self.refresh()
        except BaseException:
            self.origin = before
            raise
        return IncompatibleKeys(missing, unexpected)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields copies of the checkpoint's parameters by their stock names; they take no gradients.

        They are as `state_dict` has them, and to change them changes nothing here.

        prefix: what names start with. recurse: has no effect. remove_duplicate: whether weights that
        are tied in a live model come under their first name alone; a file has a copy under every name.
        """
        tensors = self.origin.read_tensors()
        tied = tied_to(tensors) if remove_duplicate else {}
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and name not in tied:
                yield f"{prefix}.{name}" if prefix else name, nn.Parameter(self._shown(tensor), False)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yields what `named_parameters` does, without the names; recurse: has no effect."""
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Counts the values that `parameters` yields; none of them is trainable.

        exclude_embeddings: True raises TypeError, as no module says which tensors are embeddings.
        """
        if exclude_embeddings:
            raise TypeError(f"exclude_embeddings=True is not supported{_INSTEAD}")
        tensors = self.origin.read_tensors()
        tied = tied_to(tensors)
        counted = (each for name, each in tensors.items() if name not in tied and each.is_floating_point())
        return 0 if only_trainable else sum(each.numel() for each in counted)

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        safe_serialization: bool = True,
        **options: Any,
    ) -> None:
        """Writes config.json and model.safetensors, which the reference loads too, into a folder.

        Tensors are saved as `state_dict` has them, and config.json names a dtype that was asked for.

        Args:
            save_directory: the folder.
            is_main_process: False writes nothing.
            state_dict: the tensors to write; default: the checkpoint's, tied ones under every name.
            push_to_hub: see `push_to_hub`.
            safe_serialization: False raises ValueError, as it would write a pickle.
            options: max_shard_size and others of transformers have no effect.

        Raises TypeError for an option that is not supported.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False is not supported: pickle files can run code")
        if wrong := [name for name, each in options.items() if each is not None and name not in _SAVED_ALIKE]:
            raise TypeError(f"{', '.join(wrong)} is not supported: the folder gets one model.safetensors")
        if push_to_hub:
            self.push_to_hub()
        if not is_main_process:
            return
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        left_out = ("_name_or_path", "torch_dtype")  # a path of somebody's, and the older name of dtype
        written = {name: each for name, each in self.origin.options().items() if name not in left_out}
        if self._names_dtype and state_dict is None:
            written = _of_dtype(written, str(dtype_name(self.dtype)))
        text = json.dumps(written, indent=2, ensure_ascii=False)
        if state_dict is None:
            read = self.origin.read_tensors().items()
            state_dict = {name: self._shown(each, on="cpu") for name, each in read}
        else:  # safetensors takes no tensors that share memory, as those of tied weights do
            state_dict = {name: _copied(each) for name, each in state_dict.items()}
        tensors = {name: each.contiguous() for name, each in state_dict.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(text, encoding="utf-8")

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        """Raises NotImplementedError, which names the two lines that do it."""
        raise NotImplementedError(
            "the engine does not upload. These two lines do: model.save_pretrained(folder); "
            "huggingface_hub.HfApi().upload_folder(repo_id=..., folder_path=folder)"
        )

    def train(self, mode: bool = True) -> Any:
        """Returns the model for train(False); raises RuntimeError for training, which the engine lacks."""
        if mode:
            raise RuntimeError(
                "the engine only infers: train the gliclass model, and give it to a pipeline or to "
                "GLiClassModel.from_gliclass, which notice its steps"
            )
        return self

    def eval(self) -> Any:
        """Does nothing, as the engine only infers, and returns the model."""
        return self
