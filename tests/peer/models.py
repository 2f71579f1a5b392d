"""The reference's model over padded token ids: ours runs the prompts without the padding.

A model may be made without a checkpoint: random tensors then have the stock names and shapes, which our own
tables of weights tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.models.auto import CONFIG_MAPPING

import gliclass_fast
from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.checkpoint.weights import Checkpoint, Weights
from gliclass_fast.models.architectures import ARCHITECTURES
from gliclass_fast.models.configuration import read_config
from gliclass_fast.ops import choose_ops
from tests.peer.calibration import Seen, output_of

MARKERS = ("class_token_index", "text_token_index", "example_token_index")
LAST_LAYER = "calibrator.mlp.6"


class GLiClassModelConfig:
    """Reads options as those of a config.json; the markers' tokens follow the vocabulary by default."""

    def __init__(self, encoder_config: dict[str, Any] | None = None, **options: Any) -> None:
        backbone = {"model_type": "deberta-v2", **(encoder_config or {})}
        if "class_token_index" not in options:
            size = CONFIG_MAPPING[backbone["model_type"]](**backbone).vocab_size
            options |= {token: size + place for place, token in enumerate(MARKERS)}
            options["vocab_size"] = size + len(MARKERS)
        self.raw = {"model_type": "GLiClass", "encoder_config": backbone, **options}
        self.ours = read_config(self.raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ours, name)


class GLiClassModel(gliclass_fast.GLiClassModel):
    def __init__(
        self, config: Any, read_tensors: Any = None, source: str = "random", **settings: Any
    ) -> None:
        """Takes a `GLiClassModelConfig`, for random weights, or what our own model takes."""
        if isinstance(config, GLiClassModelConfig):
            self.raw, config = config.raw, config.ours
            tensors = random_tensors(config)
            read_tensors = lambda: tensors  # noqa: E731
        super().__init__(config, read_tensors, source, **settings)

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, max_num_classes: int | None = None
    ) -> SimpleNamespace:
        """Runs ids [N, S] and gives logits [N, L], with what else the reference gives of them."""
        prompts = [
            prompt_of(ids[kept.bool()], self.config)
            for ids, kept in zip(input_ids, attention_mask, strict=True)
        ]
        counts = [prompt.num_labels for prompt in prompts]
        with Seen(self.calibrator) as seen:
            output = self.loaded(self.loaded.pack(prompts))

        def padded(values: Tensor | None) -> Tensor | None:
            return None if values is None else pad_sequence(list(values.split(counts)), batch_first=True)

        return SimpleNamespace(
            logits=padded(output.logits),
            uncalibrated_logits=padded(output.uncalibrated_logits),
            calibration_biases=padded(seen.bias),
            class_mask=padded(torch.ones(sum(counts), dtype=torch.int64)),
            text_embeddings=None,
            class_embeddings=None,
        )

    @property
    def calibrator(self) -> Any:
        return self.loaded.network.calibrator

    def add_calibrator(self, hidden_size: int = 256, use_bias: bool = False) -> SimpleNamespace:
        """Adds a calibrator of random weights; what is returned resets it."""
        options = {"calibrator_hidden_size": hidden_size, "calibrator_use_bias": use_bias}
        self.raw |= {"use_calibrator": True, **options}
        config = read_config(self.raw)
        tensors = random_tensors(config) | self.read_tensors()

        def reset(base_beta: float, base_bias: float = 0.0) -> None:
            scale = output_of(base_beta, config.calibrator_beta_max)
            tensors[f"{LAST_LAYER}.weight"] = torch.zeros_like(tensors[f"{LAST_LAYER}.weight"])
            tensors[f"{LAST_LAYER}.bias"] = torch.tensor([scale, base_bias][: 1 + use_bias])
            super(GLiClassModel, self).__init__(config, lambda: tensors, "random", device=self.device)

        return SimpleNamespace(reset_to_global_scaling=reset)

    def save_pretrained(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(self.raw), encoding="utf-8")
        save_file(dict(self.read_tensors()), folder / "model.safetensors")


def prompt_of(ids: Tensor, config: Any) -> EncodedPrompt:
    """Finds labels and text by the markers, as the reference does."""
    starts = (ids == config.class_token_index).nonzero()[:, 0].tolist()
    text_start = ids.tolist().index(config.text_token_index)
    spans = torch.tensor([starts, [*starts[1:], text_start]], dtype=torch.int32).T
    return EncodedPrompt(ids.int().numpy(), text_start, spans.numpy())


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


NAMES = {
    "GLiClassBiEncoder": GLiClassModel,
    "GLiClassModel": GLiClassModel,
    "GLiClassModelConfig": GLiClassModelConfig,
}
