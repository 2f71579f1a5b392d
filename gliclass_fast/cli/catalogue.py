"""The tables of the documentation: they list what the engine runs, read from its registries."""

from __future__ import annotations

from typing import Any

from gliclass_fast.config import CLASS_TOKEN_POOLINGS, POOLINGS
from gliclass_fast.models.architectures import ARCHITECTURES
from gliclass_fast.models.decoders import LANGUAGE_MODELS
from gliclass_fast.models.encoders import ENCODERS


def architectures() -> tuple[list[str], list[list[str]]]:
    """Returns (columns, a row per architecture): its name, its backbones and its scorers."""
    rows = []
    for name, module in ARCHITECTURES.items():
        kind = module.Architecture
        rows.append([name, ", ".join(kind.backbones()), ", ".join(kind.scorers()) or "its own"])
    return ["architecture", "backbones", "scorers"], rows


def backbones() -> tuple[list[str], list[list[str]]]:
    """Returns (columns, a row per file of backbones): its `model_type`s, and what it says of itself."""
    names: dict[str, list[str]] = {}
    for name, module in (*ENCODERS.items(), *LANGUAGE_MODELS.items()):
        names.setdefault(_first_sentence(module), []).append(name)
    rows = [[", ".join(own), sentence] for sentence, own in names.items()]
    return ["model_type", "backbone"], rows


def poolings() -> tuple[str, str]:
    """Lists the poolings of texts, and those of labels."""
    return ", ".join(POOLINGS), ", ".join(CLASS_TOKEN_POOLINGS)


def _first_sentence(module: Any) -> str:
    """Returns the module's docstring up to the first colon, on one line."""
    return " ".join(str(module.__doc__).split(":\n")[0].split(": ")[0].split()).rstrip(".")
