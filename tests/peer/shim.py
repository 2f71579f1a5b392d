"""Puts modules of the reference's names into `sys.modules`, with our package behind them.

It is a plugin of the pytest that runs the reference's tests. Where our package has no counterpart, a name
stands for a class that cannot be made, so that files which import it still load and only the tests that use
it fail. The reference's own package cannot be imported beside the shim.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch

import gliclass_fast
from gliclass_fast.text.examples import format_retrieved
from gliclass_fast.text.prompts import Markers
from gliclass_fast.text.results import scores_of
from tests.peer import batched_kv, calibration, decoder_kv, models, poolings, scorers, streaming


class _MissingType(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(f"{cls.__name__}.{name}: gliclass_fast has no counterpart")

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{cls.__name__}: gliclass_fast has no counterpart")


class Stand(ModuleType):
    """A module of the reference's name; it makes up what it does not have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _MissingType(name, (), {})


class BaseZeroShotClassificationPipeline:
    @staticmethod
    def _postprocess_logits(
        logits: torch.Tensor,
        labels: list[str],
        classification_type: str,
        threshold: float,
        initial_logits: torch.Tensor | None = None,
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        rows = torch.stack([each for each in (logits, initial_logits) if each is not None]).numpy()
        [scores] = scores_of([labels], [rows], [classification_type])
        found = scores.predictions(classification_type, threshold)
        return found, dict(zip(scores.labels, scores.values, strict=True))


def retrieval_augmented_text(text: str, examples: list[dict[str, Any]]) -> str:
    return text + format_retrieved(examples, Markers())


# What the reference's modules have that ours do not have in the same form.
ADAPTERS: dict[str, dict[str, Any]] = {
    "": models.NAMES | decoder_kv.NAMES | {"__version__": gliclass_fast.__version__},
    "calibration": calibration.NAMES,
    "data_processing": {},
    "loss_functions": {},
    "model": models.NAMES | decoder_kv.NAMES,
    "multimodal": {},
    "pipeline": {"BaseZeroShotClassificationPipeline": BaseZeroShotClassificationPipeline},
    "poolings": poolings.NAMES,
    "scorers": scorers.NAMES | decoder_kv.NAMES,
    "streaming": batched_kv.NAMES,
    "streaming.cache": batched_kv.NAMES,
    "streaming.pipeline": streaming.NAMES,
    "streaming.strategies": {},
    "training": {},
    "utils": {"retrieval_augmented_text": retrieval_augmented_text},
}


def ours(name: str) -> dict[str, Any]:
    """Returns the public names of our module of this name, and of the packages that it would be in."""
    module: ModuleType = gliclass_fast
    found = public(module)
    for part in filter(None, name.split(".")):
        path = f"{module.__name__}.{part}"
        if not hasattr(module, "__path__") or importlib.util.find_spec(path) is None:
            break
        module = importlib.import_module(path)
        found |= public(module)
    return found


def public(module: ModuleType) -> dict[str, Any]:
    return {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}


def modules() -> dict[str, Stand]:
    """Makes the modules; none has a path, so that no other module of the reference can be found."""
    made = {}
    for name, adapters in ADAPTERS.items():
        full = f"gliclass.{name}" if name else "gliclass"
        made[full] = Stand(full)
        vars(made[full]).update(ours(name) | adapters)
    return made


def pytest_configure() -> None:
    sys.modules.update(modules())
