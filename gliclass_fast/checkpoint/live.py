"""Live models: a torch model that somebody trains or changes, read as a checkpoint of this moment."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Set
from types import CodeType
from typing import Any
from weakref import WeakSet, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gliclass_fast.checkpoint.adapters import adapter_layers, adapter_state, merged_readers, trained_copies
from gliclass_fast.checkpoint.memory import ReusedMemory
from gliclass_fast.checkpoint.own_forwards import Look, count_hooks, refuse_own_forwards, warn_of_hooks

_ENCODERS_WORDS = "encoder.embed_tokens.weight"
# of a tensor: who holds it, by which name, itself, its version, its address, its memory
_Seen = tuple[dict[str, Any], str, Tensor, int, int, ref[torch.UntypedStorage]]

_watching: WeakSet[LiveState] = WeakSet()
# the steps that have begun: by thread and the id of the frame that makes it, the frame's code, the optimizer
_begun: dict[tuple[int, int], tuple[CodeType, ref[Optimizer]]] = {}


def _note_begin(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Remembers that a step is under way: meanwhile some tensors are of the time before, others after it."""
    if not torch.compiler.is_compiling():
        frame = sys._getframe(1)  # It makes the step, and calls the hooks.
        _begun[threading.get_ident(), id(frame)] = frame.f_code, ref(optimizer)


def _note_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Tells states of a step, as fused optimizers write to tensors without a trace in the tensors' counts."""
    if states := _watched():
        places = _places_of(optimizer)
        for state in states:
            state.note_step(places)
    if not torch.compiler.is_compiling():
        _begun.pop((threading.get_ident(), id(sys._getframe(1))), None)


def _watched() -> list[LiveState]:
    while True:
        try:
            return list(_watching)
        except RuntimeError:  # Another thread added a state meanwhile.
            continue


def _steps_of_others() -> list[Optimizer]:
    """Returns the optimizers whose step is under way in another thread, and forgets steps that failed."""
    found = []
    if _begun:
        running = sys._current_frames()
        for (thread, number), (code, optimizer) in _begun.copy().items():
            frame = running.get(thread)
            while frame is not None and (id(frame) != number or frame.f_code is not code):
                frame = frame.f_back
            if frame is None:
                _begun.pop((thread, number), None)
            elif thread != threading.get_ident() and (known := optimizer()) is not None:
                found.append(known)
    return found


register_optimizer_step_pre_hook(_note_begin)
register_optimizer_step_post_hook(_note_step)


class LiveModel:
    """Reads a live model's tensors whenever it is called, and tells later whether they changed."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self._memory = model, ReusedMemory()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model,)

    def __call__(self) -> Mapping[str, Tensor]:
        """Returns the tensors under the names of a plain checkpoint, with adapters merged.

        Raises CheckpointError where tensors do not say what a module computes.
        """
        refuse_own_forwards(self.model)
        warn_of_hooks(self.model)
        return LiveTensors(self.model, self._memory)

    def gpus(self) -> set[torch.device]:
        """Returns the GPUs on which the model has tensors."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return {each.device for each in tensors if each.is_cuda}

    def state(self) -> LiveState:
        """Returns the state of this moment, to be compared later."""
        return LiveState(self.model)


class LiveState:
    """Remembers which tensors a model had, and the version of each.

    The step of an optimizer of torch, `load_state_dict`, an operation in place, an exchanged parameter or
    module, another forward, and another active adapter are noticed. Writes that nobody counts are
    not: through `tensor.data`, through a NumPy view, those of other processes, of fused kernels that are not
    torch's, and to tensors that were made in inference mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tensors: list[_Seen] = []
        self._modules: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._model, self._looks = model, [Look(module) for module in model.modules()]
        self._hooks = count_hooks(self._looks)
        parts = (*adapter_layers(model).values(), *trained_copies(model).values())
        self._adapters = {part: adapter_state(part) for part in parts}
        self._stepped = False  # whether an optimizer of these tensors made a step, or is at it
        for module in model.modules():
            own: dict[str, Any] = module._modules
            self._modules.append((own, dict(own)))
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        storage = ref(tensor.untyped_storage())
                        entry = (tensors, name, tensor, _version(tensor), tensor.data_ptr(), storage)
                        self._tensors.append(entry)
        self._places = {_place(tensor) for _, _, tensor, *_ in self._tensors}
        _watching.add(self)
        self._note_others()

    def holds(self, read: Mapping[str, Tensor] | None = None) -> bool:
        """Tells whether nothing changed since; warns of hooks that are new, as they are not called.

        read: what was read of the model since, and may have been read with adapters of a moment.
        """
        self._note_others()
        hooks = count_hooks(self._looks)
        if hooks > self._hooks:
            warn_of_hooks(self._model)
        self._hooks = hooks
        return (
            not self._stepped
            and all(now == before for now, before in self._modules)
            and all(look.holds() for look in self._looks)
            and all(
                owner.get(name) is tensor
                and _version(tensor) == version
                and tensor.data_ptr() == address
                and storage() is not None  # else other memory may have its address
                for owner, name, tensor, version, address, storage in self._tensors
            )
            and all(adapter_state(part) == before for part, before in self._adapters.items())
            and all(self._adapters.get(part) == state for part, state in getattr(read, "read_in", ()))
        )

    def _note_others(self) -> None:
        for optimizer in _steps_of_others():
            self.note_step(_places_of(optimizer))

    def note_step(self, places: Set[int]) -> None:
        """Remembers the step of an optimizer whose tensors lie in these places, where some are of these."""
        self._stepped = self._stepped or not self._places.isdisjoint(places)


def _places_of(optimizer: Optimizer) -> set[int]:
    return {_place(each) for group in optimizer.param_groups for each in group["params"]}


def _place(tensor: Tensor) -> int:
    """Returns the memory that a tensor may share with others, or, where it has none of its own, itself."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except Exception:  # of many kinds, and none may end the step of an optimizer
        return id(tensor)


def _version(tensor: Tensor) -> int:
    """Returns how often a tensor was written to; those made in inference mode do not count it."""
    return 0 if tensor.is_inference() else tensor._version


class LiveTensors(Mapping[str, Tensor]):
    """Holds a live model's tensors; those with an adapter are merged copies, the others are the model's.

    What the encoder of a T5 or a BART reads is under the name `shared` too, as networks look it up there.
    `memory` holds that of the networks that were built of them before.
    """

    def __init__(self, model: nn.Module, memory: ReusedMemory) -> None:
        """Raises CheckpointError, which names the adapter, for one that cannot be merged."""
        self.read_in: list[tuple[Any, tuple[Any, ...]]] = []  # the parts with adapters, and their states then
        self._model, self._readers, self.memory = model, merged_readers(model, self.read_in), memory
        if not getattr(model.config, "use_segment_embeddings", False):  # added to what is in `shared`
            for name in [each for each in self._readers if each.endswith(_ENCODERS_WORDS)]:
                shared = name.removesuffix(_ENCODERS_WORDS) + "shared.weight"
                if shared in self._readers:
                    self._readers[shared] = self._readers[name]

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._readers  # the inherited one would merge the tensor to find out

    def own(self) -> dict[str, Tensor]:
        """Returns those tensors that are the model's, and no merged or computed copies."""
        readers = self._readers.items()
        return {name: read() for name, read in readers if isinstance(getattr(read, "__self__", None), Tensor)}

    def separate(self, network: nn.Module) -> None:
        """Gives a network that was built of these tensors copies of those that it still shares."""
        shared = {each.untyped_storage().data_ptr() for each in self._model.state_dict().values()}
        copies: dict[Tensor, nn.Parameter] = {}
        for module in network.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                # what is packed for oneDNN is a copy, and has no storage to compare
                if not parameter.is_mkldnn and parameter.untyped_storage().data_ptr() in shared:
                    if parameter not in copies:
                        copies[parameter] = nn.Parameter(self.memory.clone(parameter), requires_grad=False)
                    setattr(module, name, copies[parameter])

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def tied_to(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns by the names of tensors in memory the first name that each is under, where that is another.

    The tensors of files are told apart by their names alone.
    """
    if isinstance(tensors, LiveTensors):
        tensors = tensors.own()
    elif not isinstance(tensors, dict):
        return {}
    firsts: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    found = {}
    for name, tensor in tensors.items():
        first = firsts.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        if tensor.numel() and first != name:
            found[name] = first
    return found


class _Whole(nn.Module):
    """Holds an inner model of the reference under the name that it has in a checkpoint."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config


def whole(model: Any) -> Any:
    """Returns a `gliclass` model without wrappers; what it calls `.model` is put under that name again."""
    model = unwrapped(model)
    inner = hasattr(model.config, "architecture_type") and not hasattr(model, "model")
    return _Whole(model) if inner else model


def unwrapped(model: Any) -> Any:
    """Returns the model within `torch.compile` and data-parallel wrappers, which share its tensors."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__.endswith("DataParallel"):  # also DistributedDataParallel
            inner = model.module
        if inner is None:
            return model
        model = inner
