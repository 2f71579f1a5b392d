"""Live models: a torch model that somebody trains or changes, read as a checkpoint of this moment.

Adapters that PEFT has not merged yet are merged in the copy that is read; the live model stays as it is.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from gliclass_fast.checkpoint.errors import CheckpointError

_WRAPPER = "base_model.model."  # PEFT puts this before the names of a model that it wraps


class LiveModel:
    """Reads a live model's tensors whenever it is called, and tells later whether they changed."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self) -> Mapping[str, Tensor]:
        """Returns the tensors under the names of a plain checkpoint."""
        return LiveTensors(self.model)

    def state(self) -> LiveState:
        """Returns the state of this moment, to be compared later."""
        return LiveState(self.model)


class LiveState:
    """Remembers which tensors a model had, and the version of each.

    An optimizer step, `load_state_dict`, an exchanged parameter or module, and another active adapter are
    noticed. Writes that PyTorch does not count are not: through `tensor.data`, through a NumPy view, and
    those of other processes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tensors: list[tuple[dict[str, Any], str, Tensor, int, int]] = []
        self._modules: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._adapters = [(layer, _adapter_state(layer)) for layer in _adapter_layers(model).values()]
        for module in model.modules():
            own: dict[str, Any] = module._modules
            self._modules.append((own, dict(own)))
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        entry = (tensors, name, tensor, _version(tensor), tensor.data_ptr())
                        self._tensors.append(entry)

    def holds(self) -> bool:
        """Tells whether nothing changed since."""
        return (
            all(now == before for now, before in self._modules)
            and all(
                owner.get(name) is tensor and _version(tensor) == version and tensor.data_ptr() == address
                for owner, name, tensor, version, address in self._tensors
            )
            and all(_adapter_state(layer) == before for layer, before in self._adapters)
        )


def _version(tensor: Tensor) -> int:
    """Returns how often a tensor was written to; those made in inference mode do not count it."""
    return 0 if tensor.is_inference() else tensor._version


def _adapter_layers(model: nn.Module) -> dict[str, Any]:
    """Returns the layers that PEFT has put in the place of others, by their place in the model."""
    peft = sys.modules.get("peft.tuners.tuners_utils")  # a model has such layers only where this is loaded
    if peft is None:
        return {}
    return {name: each for name, each in model.named_modules() if isinstance(each, peft.BaseTunerLayer)}


def _adapter_state(layer: Any) -> tuple[Any, ...]:
    scaling = dict(getattr(layer, "scaling", {}))
    return list(layer.active_adapters), layer.disable_adapters, list(layer.merged_adapters), scaling


class LiveTensors(Mapping[str, Tensor]):
    """Holds a live model's tensors, with adapters merged in copies; the others are those of the model."""

    def __init__(self, model: nn.Module) -> None:
        """Raises CheckpointError, which names the adapter, for one that cannot be merged."""
        self._model, layers = model, _adapter_layers(model)
        self._readers: dict[str, Callable[[], Tensor]] = {}
        for name, tensor in model.state_dict().items():
            layer = next((each for each in layers if name.startswith(f"{each}.")), None)
            if layer is not None:
                _, _, own = name.removeprefix(layer).partition(".base_layer.")
                if own:  # the others are the adapter's own tensors
                    self._readers[_plain(f"{layer}.{own}")] = partial(_merged, layer, layers[layer], own)
            elif ".modules_to_save." in name:  # PEFT's trained copy of a module counts, not the module
                place, _, rest = name.partition(".modules_to_save.")
                adapter, _, own = rest.partition(".")
                wrapper: Any = model.get_submodule(place)
                if adapter in wrapper.active_adapters and not wrapper.disable_adapters:
                    self._readers[_plain(f"{place}.{own}")] = tensor.detach
            else:
                plain = _plain(name.replace(".original_module.", "."))
                self._readers.setdefault(plain, tensor.detach)
        if left := [name for name in self._readers if ".lora_" in name or ".base_layer." in name]:
            raise CheckpointError(
                f"the live model holds a LoRA adapter that is not merged ({left[0]} and others) and that "
                "PEFT, as far as it is loaded, does not know: merge it first, with merge_and_unload()"
            )

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._readers  # the inherited one would copy the tensor to find out

    def separate(self, network: nn.Module) -> None:
        """Gives a network that was built of these tensors copies of those that it still shares."""
        shared = {each.untyped_storage().data_ptr() for each in self._model.state_dict().values()}
        copies: dict[Tensor, nn.Parameter] = {}
        for module in network.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                # what is packed for oneDNN is a copy, and has no storage to compare
                if not parameter.is_mkldnn and parameter.untyped_storage().data_ptr() in shared:
                    if parameter not in copies:
                        copies[parameter] = nn.Parameter(parameter.clone(), requires_grad=False)
                    setattr(module, name, copies[parameter])

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def _plain(name: str) -> str:
    return name.replace(_WRAPPER, "")


def _merged(place: str, layer: Any, own: str) -> Tensor:
    """Returns a tensor of the layer beneath an adapter, as PEFT's own merge would leave it."""
    base: Tensor = layer.get_base_layer().state_dict()[own]
    if layer.disable_adapters or layer.merged or not layer.active_adapters or own != "weight":
        return base
    twin = copy.deepcopy(layer)
    try:
        twin.merge()
    except (AttributeError, NotImplementedError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"the adapter on {place} ({type(layer).__name__}) is not LoRA that PEFT can merge: {error}"
        ) from None
    weight: Tensor = twin.get_base_layer().state_dict()[own].clone()
    return weight
