"""StockTensors: the checkpoint's tensors as a model shows, takes and saves them, under their stock names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gliclass_fast.checkpoint.live import tied_to
from gliclass_fast.checkpoint.lora import adapter_place
from gliclass_fast.config import dtype_name
from gliclass_fast.runtime.loaded import LoadedNetwork
from gliclass_fast.runtime.origin import Origin
from gliclass_fast.runtime.settings import Settings
from gliclass_fast.text.checked_inputs import check_dense


class IncompatibleKeys(NamedTuple):
    """Holds what `load_state_dict` returns: the names that had no tensor, and those that nothing uses."""

    missing_keys: list[str]
    unexpected_keys: list[str]


INSTEAD_OF_MODULE = (
    ": the network runs from packed weights and is no torch module. parameters() and state_dict() give the "
    "checkpoint's tensors; to train or edit a model, use the gliclass package and GLiClassModel.from_gliclass"
)
_SAVED_ALIKE = ("max_shard_size", "token", "save_peft_format", "save_original_format")  # change nothing here


def _of_dtype(options: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Returns options of config.json that name a dtype, also those of a backbone that name one."""
    parts = {
        name: {**{key: each for key, each in part.items() if key != "torch_dtype"}, "dtype": dtype}
        for name, part in options.items()
        if isinstance(part, dict) and part.keys() & {"dtype", "torch_dtype"}
    }
    return {**options, **parts, "dtype": dtype}


def _copied(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=dtype, copy=True)


class StockTensors:
    """The tensors of a model.

    Those that it shows are copies of the checkpoint's, on the model's device and in the dtype that was asked
    for; those that run are packed, and nobody may change them.
    """

    origin: Origin
    loaded: LoadedNetwork
    settings: Settings

    @property
    def device(self) -> torch.device:
        return self.loaded.device

    @property
    def dtype(self) -> torch.dtype:
        return self.loaded.dtype

    def refresh(self) -> None:
        raise NotImplementedError

    def state_dict(
        self, *, destination: dict[str, Tensor] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Returns the checkpoint's tensors by their stock names, in the dtype asked for, on its device.

        Where no dtype was asked for, they have the one in which they are stored.

        They are copies: to change them changes nothing here, before they are given to `load_state_dict`. Word
        embeddings that a stock T5 or BART has under several names are under all of them.

        destination: the dict that gets them and is returned; default: a new one. prefix: what stands before
        every name. keep_vars: has no effect.
        """
        found = {} if destination is None else destination
        found.update((prefix + name, each) for name, each in self._all_shown().items())
        return found

    def _all_shown(self, on: Any = None) -> dict[str, Tensor]:
        """Returns copies of all tensors, those that a file leaves out as they are tied under every name."""
        tensors = self.origin.tensors()
        sources = tied_names(tensors) | {name: name for name in tensors}
        return {name: self._shown(tensors[source], on) for name, source in sources.items()}

    @property
    def _names_dtype(self) -> bool:
        """Tells whether somebody asked for a dtype; else 16 bit is the engine's own matter.

        So it is with "auto" on a CPU, which chooses bfloat16 by its speed.
        """
        by_speed = self.settings.dtype == "auto" and self.device.type == "cpu"
        return self.settings.dtype is not None and not by_speed

    def _shown(self, tensor: Tensor, on: Any = None) -> Tensor:
        """Returns a copy, on the model's device or another, in the dtype that was asked for, or as stored."""
        dtype = self.dtype if tensor.is_floating_point() and self._names_dtype else tensor.dtype
        return tensor.detach().to(self.device if on is None else on, dtype, copy=True)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Builds the model anew from copies of tensors under stock names, in the dtype of those of now.

        strict: whether every tensor must have a name of the checkpoint, and every name its tensor; otherwise
        a missing one keeps its value. assign: has no effect.

        Raises TypeError for what is no dict of tensors, RuntimeError where they do not match, and
        CheckpointError for a tensor of the wrong shape; the model then stays as it is.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict of tensors, got {type(state_dict).__name__}")
        current = self.origin.tensors()
        tied = tied_names(current)
        known = [*(name for name in current if name not in tied), *tied]
        missing = [name for name in current if name not in state_dict and tied.get(name) not in state_dict]
        unexpected = [name for name in state_dict if name not in known]
        if strict and (missing or unexpected):
            raise RuntimeError(f"state_dict does not match: missing {missing}, unexpected {unexpected}")
        given_names = [name for name in known if name in state_dict]
        for name in given_names:
            check_dense(f"state_dict[{name!r}]", state_dict[name])
        # in stock, a decoder's words that a file leaves out are tied to none
        own = [name for name in given_names if _is_decoders(name) and name not in current]
        firsts = {name: first for name, first in tied.items() if name not in own}
        others = tied_to(current).items()
        firsts |= {name: first for name, first in others if name not in tied and name not in tied.values()}
        # a tensor of several names takes the last value given to one, as in torch
        given_to = {firsts.get(name, name): state_dict[name] for name in given_names}
        copies = {}
        for name in (*current, *own):
            if name not in firsts:
                now = current[tied.get(name, name)]
                copies[name] = _copied(given_to.get(name, now), now.dtype)
        tensors = {name: copies[firsts.get(name, name)] for name in (*current, *own)}
        given = copy(self.origin)  # with the same configuration, which others may hold
        given.read_tensors, given.name = partial(dict, tensors), "the given state_dict"
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

        prefix: what names start with. recurse: has no effect. remove_duplicate: whether tied weights come
        under their first name alone.
        """
        for name, tensor in self._stored_parameters(remove_duplicate):
            yield f"{prefix}.{name}" if prefix else name, nn.Parameter(self._shown(tensor), False)

    def _stored_parameters(self, remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Yields the parameters as they are stored, without a copy."""
        tensors = self.origin.tensors()
        tied = tied_to(tensors) | tied_names(tensors) if remove_duplicate else {}
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and name not in tied:
                yield name, tensor

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yields what `named_parameters` does, without the names; recurse: has no effect."""
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Counts the values that `parameters` yields; none of them is trainable.

        exclude_embeddings: True raises TypeError, as no module says which tensors are embeddings.
        """
        if exclude_embeddings:
            raise TypeError(f"exclude_embeddings=True is not supported{INSTEAD_OF_MODULE}")
        return 0 if only_trainable else sum(each.numel() for _, each in self._stored_parameters())

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

        Tensors are saved as `state_dict` has them. config.json names a dtype that was asked for, also beside
        tensors that are given.

        Args:
            save_directory: the folder.
            is_main_process: False writes nothing.
            state_dict: the tensors to write; default: the checkpoint's, tied ones under every name.
            push_to_hub: see `push_to_hub`.
            safe_serialization: False raises ValueError, as it would write a pickle.
            options: max_shard_size and others of transformers have no effect.

        Raises TypeError for an option that is not supported, and ValueError for a folder that describes an
        adapter: who loads the folder would merge it into what is saved, where it may be merged already.
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
        if place := adapter_place(folder):
            raise ValueError(
                f"{place} describes an adapter, which would be merged into what is saved beside it: give a "
                "folder without one"
            )
        folder.mkdir(parents=True, exist_ok=True)
        left_out = ("_name_or_path", "torch_dtype")  # a path of somebody's, and the older name of dtype
        written = {name: each for name, each in self.origin.options().items() if name not in left_out}
        if self._names_dtype:
            written = _of_dtype(written, str(dtype_name(self.dtype)))
        text = json.dumps(written, indent=2, ensure_ascii=False)
        if state_dict is None:
            state_dict = self._all_shown(on="cpu")
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


def tied_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Maps further names of a stock T5's or BART's word embeddings to `shared`; files may leave them out.

    The decoder's is among them where it is left out, or has the same values.
    """
    found = {}
    for name in tensors:
        if name.endswith(".shared.weight"):
            whole = name.removesuffix("shared.weight")
            for part in (f"{whole}encoder.", f"{whole}decoder."):  # as torch goes through a model
                own = f"{part}embed_tokens.weight"
                differs = _is_decoders(own) and own in tensors and not tensors[own].equal(tensors[name])
                if any(each.startswith(part) for each in tensors) and not differs:
                    found[own] = name
    return found


def _is_decoders(name: str) -> bool:
    return name.endswith("decoder.embed_tokens.weight")
