"""Models without a checkpoint: random tensors have the stock names and shapes that our tables tell."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

import gliclass_fast
from gliclass_fast.checkpoint.weights import Checkpoint, Weights
from gliclass_fast.models.architectures import ARCHITECTURES
from gliclass_fast.models.configuration import read_config
from gliclass_fast.ops import choose_ops
from tests.peer.calibration import Seen, output_of

LAST_LAYER = "calibrator.mlp.6"


class GLiClassModel(gliclass_fast.GLiClassModel):
    def __init__(self, config: Any, *rest: Any, **settings: Any) -> None:
        """Takes a `GLiClassModelConfig`, for random weights, or what our own model takes."""
        if isinstance(config, PretrainedConfig):
            config = config.to_dict()
            tensors = random_tensors(read_config(config))
            rest = (lambda: tensors, "random")
        super().__init__(config, *rest, **settings)

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Returns our output, with the shifts of the calibrator, which the reference gives too."""
        with Seen(self.calibrator) as seen:
            output = super().__call__(*args, **inputs)
        if seen.bias is not None:
            output.calibration_biases = torch.zeros_like(output.logits)
            output.calibration_biases[output.class_mask.bool()] = seen.bias
        return output

    @property
    def calibrator(self) -> Any:
        return self.loaded.network.calibrator

    def add_calibrator(self, hidden_size: int = 256, use_bias: bool = False) -> SimpleNamespace:
        """Adds a calibrator of random weights; what is returned resets it."""
        options = {"calibrator_hidden_size": hidden_size, "calibrator_use_bias": use_bias}
        raw = self.config.to_dict() | {"use_calibrator": True, **options}
        config = read_config(raw)
        tensors = random_tensors(config) | self.state_dict()

        def reset(base_beta: float, base_bias: float = 0.0) -> None:
            scale = output_of(base_beta, config.calibrator_beta_max)
            tensors[f"{LAST_LAYER}.weight"] = torch.zeros_like(tensors[f"{LAST_LAYER}.weight"])
            tensors[f"{LAST_LAYER}.bias"] = torch.tensor([scale, base_bias][: 1 + use_bias])
            super(GLiClassModel, self).__init__(raw, lambda: tensors, "random", device=self.device)

        return SimpleNamespace(reset_to_global_scaling=reset)


class RandomTensors(Checkpoint):
    """Makes up the stock tensors that a network asks for, and keeps them under their stock names."""

    def __init__(self) -> None:
        super().__init__({}, "random", torch.device("cpu"), torch.float32)
        self.made: dict[str, Tensor] = {}

    def load_weights(
        self, module: nn.Module, weights: Weights, prefix: str, unused: Iterable[str] = ()
    ) -> None:
        for name, parameter in module.named_parameters():
            layer = re.search(r"\.(\d+)\.", name)
            sources = weights.get(name) or weights[re.sub(r"\.\d+\.", ".{i}.", name, count=1)]
            shape = list(parameter.shape)
            for source in sources:  # what we concatenate has parts of one size
                part = torch.randn([shape[0] // len(sources), *shape[1:]] if shape else []) * 0.3
                self.made[prefix + source.replace("{i}", layer[1] if layer else "")] = part

    def assert_all_used(self, ignored: Iterable[str] = ()) -> None:
        pass


def random_tensors(config: Any) -> dict[str, Tensor]:
    """Returns stock tensors for a configuration."""
    ops, tensors = choose_ops("cpu", torch.float32, "reference"), RandomTensors()
    with torch.device("meta"):
        network = ARCHITECTURES[config.architecture_type].Architecture(config, ops, tensors, lambda _: ops)
    network.load_weights(tensors)
    return tensors.made


NAMES = {"GLiClassModel": GLiClassModel}
