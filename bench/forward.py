"""Both engines on one case: the reference's logits, and the functions that get timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench import cases
from gliclass_fast import ZeroShotClassificationPipeline
from gliclass_fast.prompts import Request, build_prompt


@torch.no_grad()
def logits_alone(reference: Any, case: cases.Case) -> list[np.ndarray]:
    """The reference's logits of every text at batch size 1, as float32."""
    found = []
    for text in cases.texts(case):
        inputs = reference.pipe.prepare_inputs([text], list(case.labels), same_labels=True)
        logits = reference.pipe.model(**inputs, max_num_classes=len(case.labels)).logits
        found.append(logits[0].float().cpu().numpy())
    return found


def forward_functions(
    reference: Any, ours: ZeroShotClassificationPipeline, case: cases.Case
) -> dict[str, dict[str, Callable[[], Any]]]:
    """{"forward": ..., "pipeline": ...} -> {"reference": function, "engine": function}."""
    texts, labels = cases.texts(case), list(case.labels)
    inputs = dict(reference.pipe.prepare_inputs(texts, labels, same_labels=True))
    tokenizer, prompt_first = ours.engine.tokenizer, ours.model.config.prompt_first
    requests = [Request(text, tuple(labels)) for text in texts]
    encoded = tokenizer.encode([build_prompt(r, tokenizer.markers, prompt_first) for r in requests], 1024)
    lengths = [len(prompt.token_ids) for prompt in encoded]
    if lengths != list(case.lengths):
        raise ValueError(f"{case.name}: prompts have {lengths} tokens")
    batch = ours.model.pack(encoded).to(ours.model.device)

    @torch.no_grad()
    def reference_forward() -> Any:
        return reference.pipe.model(**inputs, max_num_classes=len(labels))

    return {
        "forward": {"reference": reference_forward, "engine": lambda: ours.model(batch)},
        "pipeline": {
            "reference": lambda: reference(texts, labels, batch_size=len(texts)),
            "engine": lambda: ours(texts, labels),
        },
    }
