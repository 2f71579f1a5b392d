"""Puts modules of the reference's names into `sys.modules`, with our package behind them.

It is a plugin of the pytest that runs the reference's tests. Where our package has no counterpart, a name
stands for a class that cannot be made, so that files which import it still load and only the tests that use
it fail. The reference's own package cannot be imported beside the shim.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch

import gliclass_fast
from gliclass_fast.text.prompts import Markers, format_retrieved
from gliclass_fast.text.results import scores_of
from tests.peer import calibration, models, poolings, scorers


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
        rows = [each.numpy() for each in (logits, initial_logits) if each is not None]
        [scores] = scores_of([labels], [torch.tensor(rows).numpy()], [classification_type])
        found = scores.predictions(classification_type, threshold)
        return found, dict(zip(scores.labels, scores.values, strict=True))


def retrieval_augmented_text(text: str, examples: list[dict[str, Any]]) -> str:
    return text + format_retrieved(examples, Markers())


TOP = {name: getattr(gliclass_fast, name) for name in gliclass_fast.__all__}
MODULES: dict[str, dict[str, Any]] = {
    "gliclass": TOP | models.NAMES | {"__version__": gliclass_fast.__version__},
    "gliclass.calibration": calibration.NAMES,
    "gliclass.data_processing": {},
    "gliclass.loss_functions": {},
    "gliclass.model": models.NAMES,
    "gliclass.multimodal": {},
    "gliclass.pipeline": {"BaseZeroShotClassificationPipeline": BaseZeroShotClassificationPipeline},
    "gliclass.poolings": poolings.NAMES,
    "gliclass.scorers": scorers.NAMES,
    "gliclass.streaming": {},
    "gliclass.streaming.cache": {},
    "gliclass.streaming.pipeline": {},
    "gliclass.streaming.strategies": {},
    "gliclass.training": {},
    "gliclass.utils": {"retrieval_augmented_text": retrieval_augmented_text},
}


def install() -> None:
    """Registers the modules; none has a path, so that no other module of the reference can be found."""
    for name, values in MODULES.items():
        module = Stand(name)
        vars(module).update(values)
        sys.modules[name] = module


install()
