"""Origin: what a network is built from, and whether any of it changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from gliclass_fast.checkpoint.live import LiveModel, LiveState
from gliclass_fast.config import GLiClassModelConfig
from gliclass_fast.models.configuration import read_config
from gliclass_fast.runtime.transfer import LAUNCH_LOCK

ON_CHANGE = ("refresh", "error", "ignore")


@dataclass(frozen=True, slots=True)
class Seen:
    """Remembers the options and the live tensors of one moment."""

    options: dict[str, Any]
    # the configuration and those within it, each with a copy of its attributes: these are compared first, as
    # that takes less time than `_public`
    configs: list[tuple[PretrainedConfig, dict[str, Any]]]
    tensors: LiveState | None

    def holds(self, read: Mapping[str, Tensor] | None = None) -> bool:
        """Tells whether the tensors are still the same; read: those that were read meanwhile."""
        return self.tensors is None or self.tensors.holds(read)


class Origin:
    """Holds the options of config.json, and a function that reads the stock tensors."""

    def __init__(
        self, raw: Mapping[str, Any], read_tensors: Callable[[], Mapping[str, Tensor]], name: str
    ) -> None:
        """Checks the options; error messages call the origin `name`. A `LiveModel` is watched for changes.

        Raises UnsupportedConfigError for an option that the engine does not have.
        """
        self._raw, self.read_tensors, self.name = dict(raw), read_tensors, name
        read_config(self._raw)
        if isinstance(read_tensors, LiveModel):
            self.config: PretrainedConfig = read_tensors.model.config
        else:
            known = PretrainedConfig if "backbone_config" in self._raw else GLiClassModelConfig
            self.config = known.from_dict(self._raw)
        self._built, self._on_change = self.observe(), ON_CHANGE[0]

    @property
    def on_change(self) -> str:
        """Returns what a call does where the configuration or a live model changed."""
        return self._on_change

    @on_change.setter
    def on_change(self, on_change: str) -> None:
        if on_change not in ON_CHANGE:
            raise ValueError(f"on_change={on_change!r} is not supported; supported: {', '.join(ON_CHANGE)}")
        self._on_change = on_change

    def tensors(self) -> Mapping[str, Tensor]:
        """Reads the stock tensors: those of a live model as they are once its GPUs did what they were given.

        A step of an optimizer may have returned while another stream is still to write the weights.
        """
        if isinstance(self.read_tensors, LiveModel):
            for gpu in self.read_tensors.gpus():
                with LAUNCH_LOCK:  # to wait for the whole GPU would break a recording
                    torch.cuda.synchronize(gpu)
        return self.read_tensors()

    def observe(self) -> Seen:
        """Returns what is there now, for `remember`."""
        live = self.read_tensors if isinstance(self.read_tensors, LiveModel) else None
        configs = [(each, _kept(vars(each))) for each in _with_inner(self.config)]
        return Seen(_public(self.config), configs, None if live is None else live.state())

    def remember(self, seen: Seen) -> None:
        """Remembers what the newest network was built from."""
        self._raw |= self._changes(seen.options)
        self._built = seen

    def remember_options(self) -> None:
        """Remembers the options of now, and the tensors as they were."""
        self.remember(replace(self.observe(), tensors=self._built.tensors))

    def options(self) -> dict[str, Any]:
        """Returns the options of config.json, with the changes that `config` has seen."""
        return self._raw | self._changes(_public(self.config))

    def _changes(self, options: Mapping[str, Any]) -> dict[str, Any]:
        before, found = self._built.options, {}
        for name, value in options.items():
            if name not in before or before[name] != value:
                own = getattr(self.config, name, None)
                found[name] = own.to_dict() if isinstance(own, PretrainedConfig) else value
        return found

    def tensors_changed(self) -> bool:
        """Tells whether a live model's tensors changed since the newest network was built."""
        return not self._built.holds()

    def changed(self) -> bool:
        """Tells whether options or tensors changed since the newest network was built, and that counts."""
        if self._on_change == "ignore":
            return False
        return self._options_changed() or self.tensors_changed()

    def _options_changed(self) -> bool:
        configs = self._built.configs
        if configs[0][0] is self.config and all(vars(each) == before for each, before in configs):
            return False
        return _public(self.config) != self._built.options


def _with_inner(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    yield config
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield from _with_inner(value)


def _public(config: PretrainedConfig) -> dict[str, Any]:
    """Returns the options that people set; transformers keeps notes of its own beside them.

    Those of a backbone are options of their own, and may change where they stand.
    """
    options = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    inner = {name: _public(value) for name, value in options.items() if isinstance(value, PretrainedConfig)}
    return _kept(options | inner)


def _kept(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options with copies of what may change in place."""
    return {name: deepcopy(v) if isinstance(v, (dict, list)) else v for name, v in options.items()}
