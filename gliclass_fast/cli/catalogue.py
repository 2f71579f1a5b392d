"""What the engine runs, read from its folders: the README's table, and a checkpoint's place in it."""

from __future__ import annotations

from typing import Any

from gliclass_fast.config import CLASS_TOKEN_POOLINGS, POOLINGS, ModelConfig, component, supported

OPTIONS = ("normalize_features", "use_segment_embeddings", "use_lstm", "squeeze_layers", "use_calibrator")


def architectures() -> tuple[list[str], list[list[str]]]:
    """(columns, a row per architecture): its name, its backbones and its scorers."""
    rows = []
    for name in supported("architectures"):
        module = component("architectures", name)
        rows.append([name, ", ".join(module.backbones()), ", ".join(module.scorers()) or "its own"])
    return ["architecture", "backbones", "scorers"], rows


def backbones() -> tuple[list[str], list[list[str]]]:
    """(columns, a row per backbone): `model_type` and what its file says of it."""
    rows = [[name, _first_sentence(component("encoders", name))] for name in supported("encoders")]
    return ["model_type", "backbone"], rows


def poolings() -> tuple[str, str]:
    """Of texts, and of labels."""
    return ", ".join(POOLINGS), ", ".join(CLASS_TOKEN_POOLINGS)


def row_of(model: Any) -> dict[str, str]:
    """Where a loaded model stands in the table."""
    config = model.config
    if not isinstance(config, ModelConfig):
        return {
            "architecture": f"gliznet, variant {model.network.head.parts.variant}",
            "backbone": config.model_type,
            "scorer": model.network.head.parts.score,
        }
    row = {
        "architecture": config.architecture_type,
        "backbone": config.model_type,
        "scorer": config.scorer_type,
        "pooling": config.pooling_strategy,
        "label pooling": config.class_token_pooling,
        "options": ", ".join(name for name in OPTIONS if getattr(config, name)) or "none",
    }
    return row if config.label_model_type is None else row | {"label backbone": config.label_model_type}


def _first_sentence(module: Any) -> str:
    """Up to the colon, on one line."""
    return " ".join(str(module.__doc__).split(":\n")[0].split(": ")[0].split()).rstrip(".")
