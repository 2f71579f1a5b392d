"""Adapters for tests: PEFT makes them, saves them, and merges them into a copy of the reference's model."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch

from gliclass_fast import ZeroShotClassificationPipeline
from tests.tiny import fast_pipeline, tokenizer_of

TEXTS = [
    "The match went to extra time.", "soup", "", "A longer text about the orbit of a planet, and its moons.",
    "votes are counted", "song", "The senate voted on the budget.", "rain, then sun",
]  # fmt: skip
LABELS = ["sports", "cooking", "a long label of several words"]
PARTS = ("encoder_model", "encoder_decoder_model", "decoder_model")


def backbone_of(model: Any) -> tuple[Any, str]:
    """Gives the module that holds a reference model's backbone, and its name there."""
    if hasattr(model, "backbone"):  # GliZNet
        return model, "backbone"
    return model.model, next(part for part in PARTS if hasattr(model.model, part))


def adapted(model: Any, folder: Path, seed: int, **options: Any) -> Any:
    """Writes a random adapter into the folder, and gives a copy of the model that PEFT merged it into."""
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", **options}
    config = peft.LoraConfig(init_lora_weights=False, **options)
    merged = copy.deepcopy(model)
    owner, name = backbone_of(merged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(getattr(owner, name), config)
        with torch.no_grad():
            for parameter in (each for n, each in wrapped.named_parameters() if "lora_" in n):
                parameter.normal_(0, 0.5 * parameter.shape[-1] ** -0.5)
        wrapped.save_pretrained(folder)
        setattr(owner, name, wrapped.merge_and_unload())
    return merged


def logits(pipeline: ZeroShotClassificationPipeline, texts: list[str], **arguments: Any) -> list[np.ndarray]:
    return [each["logits"] for each in pipeline.get_embeddings(texts, LABELS, **arguments)]


def alone(model: Any, text: str) -> np.ndarray:
    """Gives our logits of a text by a model without adapters."""
    [found] = logits(fast_pipeline(model, tokenizer_of(model)), [text])
    return found


def assert_as_merged(
    pipeline: ZeroShotClassificationPipeline, merged: dict[str | None, Any], count: int = 32
) -> None:
    """Texts over all adapters and the base have the logits that the merged models give each alone."""
    ids = [list(merged)[n % len(merged)] for n in range(count)]
    texts = [TEXTS[(n // 3) % len(TEXTS)] for n in range(count)]
    pipelines = {id: fast_pipeline(each, tokenizer_of(each)) for id, each in merged.items()}
    found = logits(pipeline, texts, adapter_ids=ids)
    expected: dict[Any, np.ndarray] = {}
    for id, text, values in zip(ids, texts, found, strict=True):
        if (id, text) not in expected:
            [expected[id, text]] = logits(pipelines[id], [text])
        np.testing.assert_allclose(values, expected[id, text], atol=1e-5, rtol=1e-5)
    differences = [
        np.abs(expected[id, text] - expected[None, text]).max()
        for id, text in expected
        if id is not None and (None, text) in expected
    ]
    assert len(differences) > 3 and np.median(differences) > 0.01
