"""Adapters in a live model: PEFT's layers are merged in copies, one at a time, and stay as they are."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.checkpoint.computed import computed_readers
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.lora import WRAPPER

_TUNER = "base_model."  # PEFT's wrapper within its model
_TOKENS = ".token_adapter."  # PEFT's trained rows of an embedding, beside LoRA
_COMPILED = "_orig_mod."  # torch.compile's wrapper


def adapter_layers(model: nn.Module) -> dict[str, Any]:
    """Returns the layers that PEFT has put in the place of others, by their place in the model."""
    peft = sys.modules.get("peft.tuners.tuners_utils")  # a model has such layers only where this is loaded
    if peft is None:
        return {}
    return {name: each for name, each in model.named_modules() if isinstance(each, peft.BaseTunerLayer)}


def trained_copies(model: nn.Module) -> dict[str, Any]:
    """Returns the modules of which PEFT has trained copies (modules_to_save), by their place in the model."""
    modules = model.named_modules(remove_duplicate=False)
    copies = ((name, each, getattr(each, "modules_to_save", None)) for name, each in modules)
    return {name: each for name, each, copied in copies if isinstance(copied, nn.ModuleDict)}


def adapter_state(part: Any) -> tuple[Any, ...]:
    """Returns which adapters of a layer count, or which copies of a module.

    These are their names, whether they are off, merged ones, and their scaling.
    """
    merged, scaling = getattr(part, "merged_adapters", ()), vars(part).get("scaling", {})
    return list(part.active_adapters), part.disable_adapters, list(merged), dict(scaling)


def merged_readers(
    model: nn.Module, read_in: list[tuple[Any, tuple[Any, ...]]]
) -> dict[str, Callable[[], Tensor]]:
    """Returns what reads each tensor of a model, by its name in a plain checkpoint.

    A tensor of a layer with adapters, or one that torch computes, is a copy; others are those of the model.
    read_in: gets the layers that are merged and the modules with copies, and the state each was read in.
    Raises CheckpointError, which names the adapter, where PEFT is not loaded or torch computes a weight
    beneath it; to read a tensor raises it where PEFT cannot merge.
    """
    layers = adapter_layers(model)
    readers: dict[str, Callable[[], Tensor]] = {}
    computed, parts = computed_readers(model)
    kinds = ((name, type(each).__name__) for name, each in model.named_modules())
    parallel = [f"{name}.module." for name, kind in kinds if kind.endswith("DataParallel")]

    def plain(name: str) -> str:
        for wrapper in reversed(parallel):  # the innermost first
            if name.startswith(wrapper):
                name = wrapper.removesuffix("module.") + name.removeprefix(wrapper)
        return _plain(name)

    copies = {}
    for name, wrapper in trained_copies(model).items():
        copies[name] = adapter_state(wrapper)
        read_in.append((wrapper, copies[name]))
    if beneath := [name for name in computed if any(name.startswith(f"{each}.") for each in layers)]:
        raise CheckpointError(
            f"an adapter cannot be merged into {beneath[0]}, which torch computes of other tensors (a "
            "parametrization, weight norm, spectral norm or pruning): make it a plain weight first"
        )
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            place = name.partition("._packed_params")[0]
            raise CheckpointError(
                f"{place} holds a {type(tensor).__name__} where a tensor should be, as layers that torch has "
                "quantized do: give the model as it was before, and quantization='int8'"
            )
        read: Callable[[], Tensor] = tensor.detach
        layer = next((each for each in layers if name.startswith(f"{each}.")), None)
        if layer is not None:
            _, _, own = name.removeprefix(layer).partition(".base_layer.")
            if not own:
                continue  # a tensor of the adapter
            name, read = f"{layer}.{own}", partial(_merged, layer, layers[layer], own, read_in)
        elif name in parts or (layers and name.startswith(_TUNER) and not name.startswith(WRAPPER)):
            continue  # what a weight is computed of, or what PEFT's layers share, as those of VeRA do
        if ".modules_to_save." in name:  # PEFT's trained copy of a module counts, not the module
            place, _, rest = name.partition(".modules_to_save.")
            adapter = rest.partition(".")[0]
            active, off, *_ = copies[place]
            if adapter in active and not off:
                readers[plain(name).replace(f".modules_to_save.{adapter}.", ".", 1)] = read
        else:
            readers.setdefault(plain(name).replace(".original_module.", "."), read)
    readers |= {plain(name): read for name, read in computed.items()}
    if left := [name for name in readers if ".lora_" in name or ".base_layer." in name]:
        raise CheckpointError(
            f"the live model holds a LoRA adapter that is not merged ({left[0]} and others), and PEFT, as "
            "far as it is loaded, does not know it: merge it first, with merge_and_unload()"
        )
    return readers


def _plain(name: str) -> str:
    """Returns a tensor's name without what PEFT and torch.compile, of inner modules too, put into it."""
    return name.replace(WRAPPER, "").replace(_COMPILED, "").replace(_TOKENS, ".")


def _merged(place: str, layer: Any, own: str, read_in: list[tuple[Any, tuple[Any, ...]]]) -> Tensor:
    """Returns a tensor of the layer beneath an adapter, as PEFT's own merge would leave it."""
    twin = copy.deepcopy(layer)
    read_in.append((layer, adapter_state(twin)))  # another thread may exchange adapters meanwhile
    wanted = bool(twin.active_adapters) and not twin.disable_adapters
    try:
        if wanted != twin.merged:
            twin.merge() if wanted else twin.unmerge()
        tensors = twin.get_base_layer().state_dict()
    except (AttributeError, NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        if "memory" in str(error):  # where that ends, the adapter is not at fault
            raise
        raise CheckpointError(
            f"the adapter on {place} ({type(layer).__name__}) is not LoRA that PEFT can merge: {error}"
        ) from None
    tensor: Tensor = tensors[own]
    return tensor


def adapter_names(model: nn.Module) -> list[str]:
    """Returns the names of the LoRA adapters that PEFT's layers in a model hold."""
    layers = adapter_layers(model).values()
    return list(dict.fromkeys(name for layer in layers for name in getattr(layer, "lora_A", ())))


def live_updates(model: nn.Module, name: str | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns what takes a model, its active adapters merged, to one with another adapter alone, or none.

    By the name of each weight: A [r, in] and B [out, r], copies in float32, the adapter's own and those of
    the merged ones with the other sign. Raises CheckpointError where one of them is not plain LoRA of linear
    layers.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    called = "an active adapter" if name is None else f"the adapter {name!r} or an active one"
    wanted = [] if name is None else [name]
    for place, module in trained_copies(model).items():
        active = () if module.disable_adapters else module.active_adapters
        if any(each in module.modules_to_save for each in (*wanted, *active)):
            raise CheckpointError(f"{called} replaces {place} (modules_to_save)")
    for place, layer in adapter_layers(model).items():
        held = _left_in(layer)
        signs = dict.fromkeys((each for each in held if each not in wanted), -1.0)
        signs |= dict.fromkeys((each for each in wanted if each not in held), 1.0)
        if any(not _is_plain(layer, each) for each in (*wanted, *held)):
            raise CheckpointError(f"{called} is not plain LoRA on {place}")
        own = {each: sign for each, sign in signs.items() if each in getattr(layer, "lora_A", ())}
        if own:
            a = torch.cat([layer.lora_A[each].weight.detach().float().cpu() for each in own])
            b = [
                sign * layer.scaling[each] * layer.lora_B[each].weight.detach().float().cpu()
                for each, sign in own.items()
            ]
            found[_plain(f"{place}.weight")] = a, torch.cat(b, dim=1)
    return found


def _left_in(layer: Any) -> list[str]:
    """Returns the adapters of a layer that are in the weight which `_merged` gives."""
    if layer.disable_adapters or not layer.active_adapters:
        return []
    return list(layer.merged_adapters if layer.merged else layer.active_adapters)


def _is_plain(layer: Any, name: str) -> bool:
    """Tells whether what a layer holds of an adapter is nothing, or two matrices of a linear map."""
    if name in getattr(layer, "lora_embedding_A", ()):
        return False
    if not hasattr(layer, "lora_A"):  # IA3 and others
        return name not in layer.active_adapters
    if name not in layer.lora_A:
        return True
    b = layer.lora_B[name]  # that of AdaLoRA is a parameter
    plain = isinstance(b, nn.Linear) and b.bias is None and not getattr(layer, "use_dora", {}).get(name)
    return plain and isinstance(layer.get_base_layer(), nn.Linear)
