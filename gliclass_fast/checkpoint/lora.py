"""LoRA adapters (Hu et al., arXiv:2106.09685) as PEFT saves them: they are merged into the weights.

    W + scaling * B @ A,  scaling = alpha / r, or alpha / sqrt(r) with use_rslora (arXiv:2312.03732)

A weight is merged when it is asked for, in float32, and rounded to its own dtype once.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from gliclass_fast.checkpoint.documents import read_object
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.name_patterns import compiled, refused_pattern, slowest
from gliclass_fast.checkpoint.tensors import SafetensorsFiles, SafetensorsFolder

logger = logging.getLogger(__name__)

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
WRAPPER = "base_model.model."  # PEFT puts this before the names of a model that it wraps
_LORA = re.compile(
    r"(?P<prefix>.*?)base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight"
)
_ADDED = ("lora_", "modules_to_save.", "original_module.")  # the names of what PEFT adds have one of these
# these options make something else of A and B than the formula above, or change other tensors
_SWITCHES = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "alora_invocation_tokens",
    "trainable_token_indices", "target_parameters", "arrow_config", "kasa_config", "monteclora_config",
)  # fmt: skip
_MOST_RANK, _MOST_ALPHA = 1 << 16, 1e6
_MOST_PATTERNS = 256
# these starting values are taken out of the base weights; PEFT takes "OLoRA" as "olora"
_STARTS = ("pissa", "olora", "loftq", "corda", "lora_ga")


def adapter_place(folder: Path) -> Path | None:
    """Returns the folder that describes a checkpoint's adapter, or None where it has none."""
    return next((each for each in (folder, folder / "adapter") if (each / CONFIG).exists()), None)


def open_checkpoint(folder: Path) -> Mapping[str, Tensor]:
    """Opens a folder's tensors under the names of a plain checkpoint, and merges its adapter if it has one.

    An adapter is described by adapter_config.json, in the folder or in `adapter/`. Its tensors are
    - in model.safetensors, if the model was saved with PEFT's wrappers; or
    - in adapter_model.safetensors beside adapter_config.json, under names relative to the encoder or to the
      whole model, and model.safetensors is a plain checkpoint.

    Raises CheckpointError for files that are missing or damaged and for adapters that are not plain LoRA.
    """
    tensors = SafetensorsFolder(folder)
    wrapped = any(WRAPPER in name for name in tensors)
    place = adapter_place(folder)
    if place is None:
        if wrapped:
            raise CheckpointError(f"{folder} holds a model wrapped by PEFT, but {CONFIG} does not exist")
        return tensors
    options = _read_options(place / CONFIG, starts_from_base=not wrapped)
    logger.info("merging the LoRA adapter of %s", place)
    if not wrapped:
        adapter = _open_tensors(place)
        return MergedLora(tensors, adapter, list(adapter), options, place / TENSORS)
    added = [name for name in tensors if WRAPPER in name and any(part in name for part in _ADDED)]
    return MergedLora(tensors, tensors, added, options, folder)


def open_adapter(folder: Path, weights: Container[str], prefixes: Sequence[str]) -> LoraPairs:
    """Opens an adapter's folder, for a model with these weights.

    It holds adapter_config.json and adapter_model.safetensors, or has both in `adapter/`. prefixes: what the
    names of the adapter's modules may leave out of the model's.

    Raises CheckpointError for files that are missing or damaged, for what is not plain LoRA, and for a weight
    that the model does not have.
    """
    place = adapter_place(folder)
    if place is None:
        raise CheckpointError(f"{folder} holds no {CONFIG}: it is not the folder of an adapter")
    options, adapter = _read_options(place / CONFIG, starts_from_base=True), _open_tensors(place)
    return LoraPairs(adapter, list(adapter), options, place / TENSORS, weights, prefixes)


def _open_tensors(place: Path) -> SafetensorsFiles:
    if (place / TENSORS).exists():
        return SafetensorsFiles([place / TENSORS])
    if (place / _PICKLE).exists():
        raise CheckpointError(
            f"{place / _PICKLE} is a pickle file, which can run code when it is opened: refused. "
            f"Save the adapter as {TENSORS} where you trust it"
        )
    raise CheckpointError(f"{place / TENSORS} does not exist; a model without an adapter has no {CONFIG}")


def _read_options(file: Path, starts_from_base: bool) -> dict[str, Any]:
    """Reads and checks adapter_config.json. starts_from_base: the base weights are stored without changes."""
    options = read_object(file)
    start = str(options.get("init_lora_weights")).lower()
    refused = {
        "peft_type": options.get("peft_type") != "LORA" and "'LORA'",
        "bias": options.get("bias", "none") != "none" and "'none'",
        "init_lora_weights": starts_from_base and start.startswith(_STARTS) and "true, 'gaussian'",
        **{switch: options.get(switch) and "false" for switch in _SWITCHES},
    }
    for option, supported in refused.items():
        if supported:
            value = options.get(option)
            raise CheckpointError(f"{file}: {option}={value!r} is not supported; supported: {supported}")
    _check_numbers(file, options)
    return options


class Pair(NamedTuple):
    """Names the tensors A [r, in] and B [out, r], with their rank and scaling."""

    a: str
    b: str
    rank: int
    scaling: float


class LoraPairs:
    """Holds the pairs of an adapter by the weight that each changes; none is read before `read`."""

    def __init__(
        self,
        adapter: Mapping[str, Tensor],
        added: Sequence[str],
        options: Mapping[str, Any],
        source: Path,
        weights: Container[str],
        prefixes: Sequence[str] = ("model.encoder_model.",),
    ) -> None:
        """Takes the names `added` of the adapter's own tensors; error messages name `source`.

        weights: the names of a plain checkpoint. prefixes: what names in the adapter may leave out of them.
        """
        self._adapter, self._source, self._weights, self._prefixes = adapter, source, weights, prefixes
        sides: dict[tuple[str, str], dict[str, str]] = {}
        for name in added:
            weight, module, side = self._place(name)
            sides.setdefault((weight, module), {})[side] = name
        modules: dict[str, str] = {}
        for (weight, module), names in sides.items():
            if modules.setdefault(weight, module) != module:
                raise CheckpointError(f"{source}: {weight} has two adapters, {modules[weight]} and {module}")
            if len(names) < 2:
                raise CheckpointError(f"{source}: for {weight} there is only {next(iter(names.values()))}")
        _check_steps(source, options, [module for _, module in sides])
        self._pairs = {
            weight: Pair(names["A"], names["B"], *_rank_and_scaling(options, module))
            for (weight, module), names in sides.items()
        }
        if not sides:
            raise CheckpointError(f"{source} holds no lora_A and lora_B tensors")

    def _place(self, name: str) -> tuple[str, str, str]:
        """Returns the weight of an adapter's tensor, the name of its module in the adapter, and A or B."""
        found = _LORA.fullmatch(name)
        if found is None:
            raise CheckpointError(
                f"{self._source}: {name} is not supported; supported: lora_A and lora_B of linear layers "
                "(no lora_embedding, modules_to_save or others)"
            )
        for prefix in (found["prefix"], *self._prefixes):
            if (weight := f"{prefix}{found['module']}.weight") in self._weights:
                return weight, found["module"], found["side"]
        raise CheckpointError(f"{self._source}: {name} matches no weight of the checkpoint")

    @property
    def changed(self) -> Collection[str]:
        """Returns the names of the weights that have a pair."""
        return self._pairs.keys()

    def read(self, weight: str, shape: Sequence[int]) -> tuple[Tensor, Tensor, float]:
        """Returns A [r, in] and B [out, r] for a weight [out, in], in float32, and what scales their product.

        Raises CheckpointError where they do not fit it.
        """
        pair, (out, *width) = self._pairs[weight], shape
        a, b = self._adapter[pair.a], self._adapter[pair.b]
        if (*b.shape, *a.shape) != (out, pair.rank, pair.rank, *width):
            raise CheckpointError(
                f"{self._source}: {pair.a} {list(a.shape)} and {pair.b} {list(b.shape)} do not fit rank "
                f"{pair.rank} and {weight} {list(shape)}"
            )
        return a.float(), b.float(), pair.scaling


class MergedLora(Mapping[str, Tensor]):
    """Merges an adapter into a checkpoint's tensors, and reads none before it is asked for."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        adapter: Mapping[str, Tensor],
        added: Sequence[str],
        options: Mapping[str, Any],
        source: Path,
    ) -> None:
        """Takes the names `added` of the adapter's own tensors; error messages name `source`."""
        self._tensors, own = tensors, set(added)
        # maps the names of a plain checkpoint to the stored ones
        self._stored = {
            name.replace(WRAPPER, "", 1).replace(".base_layer.", "."): name
            for name in tensors
            if name not in own
        }
        self._pairs = LoraPairs(adapter, added, options, source, self._stored)

    def __getitem__(self, name: str) -> Tensor:
        weight = self._tensors[self._stored[name]]
        if name not in self._pairs.changed:
            return weight
        a, b, scaling = self._pairs.read(name, weight.shape)
        return (weight.float() + scaling * (b @ a)).to(weight.dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._stored  # the inherited one would merge the weight to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _rank_and_scaling(options: Mapping[str, Any], module: str) -> tuple[int, float]:
    """Returns both as a pattern for the end of the module's name says, else the adapter, else PEFT."""

    def read(patterns: str, option: str) -> Any:
        for pattern, value in (options.get(patterns) or {}).items():
            if compiled(pattern).match(module):
                return value
        return options.get(option, 8)

    rank, alpha = read("rank_pattern", "r"), read("alpha_pattern", "lora_alpha")
    return rank, alpha / (math.sqrt(rank) if options.get("use_rslora") else rank)


def _check_steps(source: Path, options: Mapping[str, Any], modules: Sequence[str]) -> None:
    """Raises CheckpointError where the patterns could take very long to match the names of these modules."""
    for patterns in ("rank_pattern", "alpha_pattern"):
        if (pattern := slowest(options.get(patterns) or {}, modules)) is not None:
            raise CheckpointError(
                f"{source}: the pattern {pattern[:80]!r} of {patterns} in {CONFIG} could take very long to "
                f"match the names of {len(modules)} module(s): it and those beside it repeat, choose by | or "
                "leave out by ? too much"
            )


def _check_numbers(file: Path, options: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless ranks and alphas, and the patterns that choose them, can be used."""
    for patterns, option in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        chosen = options.get(patterns) or {}
        if not isinstance(chosen, Mapping) or len(chosen) > _MOST_PATTERNS:
            raise CheckpointError(f"{file}: {patterns} is not an object of at most {_MOST_PATTERNS} patterns")
        for pattern in chosen:
            if reason := refused_pattern(pattern):
                raise CheckpointError(f"{file}: the pattern {pattern[:80]!r} of {patterns} {reason}")
        for name, value in [(option, options.get(option, 8)), *chosen.items()]:
            whole = type(value) is int and 1 <= value <= _MOST_RANK
            fine = whole if option == "r" else type(value) in (int, float) and abs(value) <= _MOST_ALPHA
            if not fine:
                wanted = f"whole numbers from 1 to {_MOST_RANK}" if option == "r" else f"up to {_MOST_ALPHA}"
                raise CheckpointError(
                    f"{file}: {name[:80]}={str(value)[:40]} is no {option}; supported: {wanted}"
                )
