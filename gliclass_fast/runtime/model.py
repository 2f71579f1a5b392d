"""GLiClassModel: it builds a checkpoint for a device and a dtype, and anew where something of it changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from gliclass_fast.checkpoint.adapter_folder import resolve_adapter
from gliclass_fast.checkpoint.live import LiveModel, unwrapped, whole
from gliclass_fast.checkpoint.lora import open_checkpoint
from gliclass_fast.checkpoint.memory import return_freed
from gliclass_fast.config import dtype_name, valid_options
from gliclass_fast.models.configuration import read_config
from gliclass_fast.ops import Ops, unavailable_reason
from gliclass_fast.runtime.adapters import Adapter, AdapterLibrary
from gliclass_fast.runtime.loaded import LoadedNetwork
from gliclass_fast.runtime.origin import Origin
from gliclass_fast.runtime.pretrained import find_pretrained
from gliclass_fast.runtime.settings import Settings
from gliclass_fast.runtime.snapshot import take_snapshot
from gliclass_fast.runtime.stock import WITHOUT_WEIGHTS, StockModel
from gliclass_fast.runtime.warm_up import warm_up
from gliclass_fast.text.arguments import plain_string
from gliclass_fast.text.errors import WrongValue

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

Built = TypeVar("Built")


class GLiClassModel(StockModel):
    """Takes the place of `gliclass.GLiClassModel` for inference.

    It is built from stock weights for one device and dtype; `to` builds it anew from the same weights.
    `config` holds the options of config.json, as the reference names them, and `loaded` holds the network as
    it runs. The network is a snapshot: nothing that changes outside changes it before the next call.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        read_tensors: Callable[[], Mapping[str, Tensor]] | None = None,
        source: str = "the given tensors",
        on_change: str = "refresh",
        **settings: Any,
    ) -> None:
        """Builds the network from stock tensors.

        Args:
            config: the options of config.json.
            read_tensors: returns the stock tensors, whenever the network is built; a `LiveModel` is watched.
                Others must not change in place, as the network may share their memory.
            source: the name of the tensors in error messages.
            on_change: what a call does where `config`, or a live model, changed since the network was built:
                "refresh" builds it anew, "error" raises RuntimeError, "ignore" answers from the old one.
            settings: dtype, device, backend, cuda_graphs and quantization, as `from_pretrained` takes them.
        """
        if read_tensors is None:  # the reference's call, which makes random weights
            raise TypeError(WITHOUT_WEIGHTS)
        with valid_options(f"the configuration of {source}"):
            self.origin = Origin(config, read_tensors, source)
        self.on_change = on_change
        self._twin: GLiClassModel | None = None
        self.adapters = AdapterLibrary()
        self.exchange = RLock()  # held while the network or its twin is exchanged, or must stay
        self._build(Settings.of(settings))
        return_freed()

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | Path | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        backend: str | None = None,
        cuda_graphs: bool = True,
        quantization: str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        precision: str | None = None,
        on_change: str = "refresh",
        **options: Any,
    ) -> GLiClassModel:
        """Loads a stock checkpoint from a folder or a Hugging Face repository.

        Args:
            path_or_repo_id: a folder with config.json and model.safetensors (or its shards), or a repository
                id. It may be given as `pretrained_model_name_or_path`, as transformers names it.
            dtype: float32, float16 or bfloat16. Default: on a GPU float16, or bfloat16 where float16
                overflows; on a CPU float32. "auto": on a GPU what config.json asks for, else the stored
                dtype; on a CPU bfloat16 where a short measurement finds it 1.2 times as fast, else float32.
                On a CPU, bfloat16 is for the products of the backbone's linear layers and attention.
            device: where to run; default: the GPU where there is one.
            backend: the implementation of every operation that it has; default: the table in `ops.py`.
            cuda_graphs: whether a GPU records the launches of batches of similar size and replays them.
            quantization: "int8" runs the backbone's linear layers in int8, on CPUs. It changes scores a
                little: `gliclass-fast check --quantization int8` shows how much on texts of yours.
            torch_dtype: an older name of dtype.
            precision: an older name of quantization, which warns.
            on_change: what a call does where `config` was changed since: "refresh", "error" or "ignore".
            options: those of a download, and others that `find_pretrained` describes.

        Raises:
            CheckpointError: a file or tensor is missing, truncated, of the wrong shape, or a pickle.
            UnsupportedConfigError: the configuration asks for something the engine does not have.
            ValueError: a device, dtype or backend is unknown or cannot run here.
            TypeError: an option is unknown.
        """
        name = options.pop("pretrained_model_name_or_path", path_or_repo_id)
        if path_or_repo_id not in (None, name):
            raise TypeError("path_or_repo_id and pretrained_model_name_or_path are two names of one argument")
        asked = torch_dtype if dtype is None else dtype
        found = find_pretrained(name, options, asked)
        return cls(
            found.raw,
            partial(open_checkpoint, found.folder),
            str(found.folder),
            on_change,
            dtype=asked,
            device=found.device if device is None else device,
            backend=backend,
            cuda_graphs=cuda_graphs,
            quantization=quantization,
            precision=precision,
        )

    @classmethod
    def from_gliclass(
        cls,
        model: Any,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        **settings: Any,
    ) -> GLiClassModel:
        """Takes a copy of a `gliclass` model or of its `.model`, by default with its dtype and device.

        Adapters of PEFT are merged in the copy. Later changes of the model are noticed at the next call, as
        far as `LiveState` says, and `on_change` decides what happens then.

        settings: backend, cuda_graphs, quantization and on_change, as `from_pretrained` takes them.
        Raises CheckpointError for an adapter that cannot be merged, TypeError for what is no such model.
        """
        first = next(unwrapped(model).parameters(), None) if isinstance(model, nn.Module) else None
        if first is None or not hasattr(unwrapped(model), "config"):
            raise TypeError(
                f"from_gliclass takes a model of the package gliclass, got {type(model).__name__}"
            )
        model = whole(model)
        own = torch.float32 if first.dtype is torch.float64 else first.dtype  # the engine has no float64
        settings |= {"dtype": dtype or own, "device": first.device if device is None else device}
        return cls(model.config.to_dict(), LiveModel(model), "the gliclass model", **settings)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as what it was made of: a copy is built anew from the stock weights, in any process."""
        settings = {field.name: getattr(self.settings, field.name) for field in fields(Settings)}
        origin = self.origin
        given = (origin.options(), origin.read_tensors, origin.name, self.on_change)
        return partial(type(self), **settings), given, self.adapters

    def __setstate__(self, adapters: AdapterLibrary) -> None:
        self.adapters = deepcopy(adapters)  # also for a shallow copy: what it unloads stays here
        self._exchange(self.loaded, self.settings)

    def __repr__(self) -> str:
        where = f"{dtype_name(self.dtype)} on {self.device}"
        return f"{type(self).__name__}({self.origin.name!r}, {where})"

    @property
    def config(self) -> Any:
        """Returns the options of config.json by the reference's names; a change counts from the next call."""
        return self.origin.config

    @config.setter
    def config(self, config: PretrainedConfig) -> None:
        if not isinstance(config, PretrainedConfig):
            raise TypeError(f"config must be a GLiClassModelConfig, got {type(config).__name__}")
        self.origin.config = config

    @property
    def on_change(self) -> str:
        """Returns what a call does where the configuration or a live model changed."""
        return self.origin.on_change

    @on_change.setter
    def on_change(self, on_change: str) -> None:
        self.origin.on_change = on_change

    def _build(self, settings: Settings) -> None:
        """Builds a network and, once it is there, puts it in the place of the old one."""
        loaded, seen = take_snapshot(self.origin, settings)
        self._exchange(loaded, settings)
        self.origin.remember(seen)  # at last: other threads wait for the network until it is there

    def _exchange(self, loaded: LoadedNetwork, settings: Settings) -> None:
        """Puts a network in the place of the old one, with the adapters of the live model that it is of."""
        live = self.origin.read_tensors
        with self.adapters.following(live.model if isinstance(live, LiveModel) else None, loaded.places):
            self.loaded, self.settings, self._twin = loaded, settings, None

    def follow_origin(self) -> None:
        """Does what `on_change` says about a change; calls begin so where they find `origin.changed()`.

        Raises RuntimeError with on_change="error", and the errors of a load where a rebuild fails.
        """
        with self.exchange:
            if not self.origin.changed():  # another thread has followed meanwhile
                return
            same = read_config(self.origin.options()) == self.loaded.config
            if same and not self.origin.tensors_changed():  # the option is none that the engine reads
                self.origin.remember_options()
            elif self.on_change == "error":
                raise RuntimeError(
                    "the model or its configuration changed since this copy of it was made: call refresh(), "
                    "or give on_change='refresh' or 'ignore'"
                )
            else:
                self._build(self.settings)

    def refresh(self) -> None:
        """Builds the network anew, from the tensors and the configuration of now."""
        with self.exchange:
            self._build(self.settings)

    @property
    def ops(self) -> Ops:
        """Returns the operations; `ops.chosen` names the implementation of each."""
        return self.loaded.ops

    def in_float32(self) -> GLiClassModel:
        """Returns this model in float32, for values that overflow 16 bit.

        This is the model itself, or a twin that is built when it is first needed and then kept. The twin is
        on the same device, without CUDA graphs, and on the same backend if that runs in float32. Its weights
        take twice the memory of those in 16 bit, in addition to them, until `to` builds this model anew.
        """
        if self.dtype is torch.float32:
            return self
        with self.exchange:
            if self._twin is None:
                self._twin = self._with_memory(self._build_twin)
            return self._twin

    def _build_twin(self) -> GLiClassModel:
        backend, dtype = self.settings.backend, torch.float32
        width = self.loaded.config.backbone_config.head_width
        if backend is not None and unavailable_reason(backend, self.device, dtype, width):
            backend = None
        given = {"dtype": dtype, "device": self.device, "backend": backend, "cuda_graphs": False}
        origin = self.origin
        twin = GLiClassModel(origin.options(), origin.read_tensors, origin.name, "ignore", **given)
        twin.adapters = self.adapters
        return twin

    def load_adapter(self, id: str, folder: str | Path) -> None:
        """Loads a LoRA adapter that PEFT saved; texts of a call may then name it. It replaces one of that id.

        id: what calls name the adapter by. folder: a folder or a repository id, with adapter_config.json and
        adapter_model.safetensors.

        Raises CheckpointError where the folder holds no plain LoRA adapter for this model, ValueError for an
        empty id, and TypeError for an id that is no string, or a folder that is no path.
        """
        id = plain_string(id, "adapter_id")
        if not id:
            raise WrongValue("adapter_id is empty, which means no adapter: give it another id")
        place = resolve_adapter(folder)
        self._drop_adapter(self.adapters.load(id, place, self.loaded.places))

    def unload_adapter(self, id: str) -> None:
        """Forgets an adapter.

        Raises ValueError where there is none of that id or a live model has it, TypeError for other types.
        """
        self._drop_adapter(self.adapters.unload(plain_string(id, "adapter_id")))

    def _drop_adapter(self, adapter: Adapter | None) -> None:
        for model in (self, self._twin):
            if model is not None and adapter is not None:
                with model.loaded.inference():
                    model.loaded.adapter_slots.drop(adapter)

    def warm_up(
        self,
        tokens: Sequence[int],
        labels: Sequence[int] = (1,),
        prompts: Sequence[int] = (1,),
        record_others: bool = True,
    ) -> None:
        """Compiles and records what batches of these sizes need, before the first of them comes.

        Every combination of `tokens`, `labels` and `prompts`, each counted over a whole batch, runs with
        random tokens and stands for its whole bucket (`GraphRunner.bucket`). Every prompt has at least one
        label and at most 512 tokens.

        record_others: whether batches of other sizes will be recorded when they come, which waits for the
            GPU; False runs them without CUDA graphs, so that nothing is recorded any more, also after
            `refresh` and `to`, before the next warm-up.

        Raises ValueError where a prompt would have fewer than 2 + 2 * labels tokens.
        """
        with self.exchange:
            warm_up(self.loaded, tokens, labels, prompts, record_others)
            self.settings = replace(self.settings, record_others=record_others)

    def to(
        self,
        *targets: torch.device | str | torch.dtype | Tensor | bool | None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
        copy: bool = False,
        memory_format: torch.memory_format | None = None,
    ) -> Self:
        """Moves the model to a device, a dtype or both, and returns it; it is built anew from stock weights.

        The model changes only once the new network is there: after an error it is as it was before.
        targets: as torch takes them; a tensor stands for its device and its dtype. The other arguments have
        no effect.
        """
        for target in targets:
            if isinstance(target, torch.dtype):
                dtype = target
            elif isinstance(target, Tensor):
                device, dtype = target.device, target.dtype
            elif target is not None and not isinstance(target, bool):
                device = target
        with self.exchange:
            place = self.device if device is None else device
            wanted = replace(self.settings, device=place, dtype=dtype or self.settings.dtype)
            if wanted.device != self.device or (dtype is not None and dtype != self.dtype):
                self._with_memory(lambda: self._build(wanted))
            self.settings = wanted  # what is shown and saved has a dtype that was asked for, also the same
        return self

    def _with_memory(self, build: Callable[[], Built]) -> Built:
        """Builds beside what is there; where memory is short, CUDA graphs give back theirs first."""
        try:
            return build()
        except torch.OutOfMemoryError:
            logger.warning("out of memory for more weights: CUDA graphs give back theirs")
            self.loaded.free_graphs()
            return build()
