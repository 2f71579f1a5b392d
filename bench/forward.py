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


def engine_logits(ours: ZeroShotClassificationPipeline, case: cases.Case, runs: int = 3) -> list[np.ndarray]:
    """The engine's logits of every text, of the last of several runs: by then CUDA graphs are replayed."""
    requests = [Request(text, case.labels) for text in cases.texts(case)]
    *_, scored = (ours.engine.score(requests) for _ in range(runs))
    return [each.logits for each in scored]


def reference_forward(reference: Any, case: cases.Case) -> Callable[[], Any]:
    """The reference's model on inputs that are on its device."""
    labels = list(case.labels)
    inputs = dict(reference.pipe.prepare_inputs(cases.texts(case), labels, same_labels=True))

    @torch.no_grad()
    def forward() -> Any:
        return reference.pipe.model(**inputs, max_num_classes=len(labels))

    return forward


def engine_forwards(ours: ZeroShotClassificationPipeline, case: cases.Case) -> dict[str, Callable[[], Any]]:
    """The model on a packed batch: from CUDA graphs if it has them, copies included, and without them."""
    model, tokenizer = ours.model, ours.engine.tokenizer
    requests = [Request(text, case.labels) for text in cases.texts(case)]
    prompts = [build_prompt(each, tokenizer.markers, model.config.prompt_first) for each in requests]
    encoded = tokenizer.encode(prompts, 1024)
    lengths = [len(prompt.token_ids) for prompt in encoded]
    if lengths != list(case.lengths):
        raise ValueError(f"{case.name}: prompts have {lengths} tokens")
    batch = model.pack(encoded).to(model.device)
    if (graphs := model.graphs) is None:
        return {"engine": lambda: model(batch)}
    padded = model.pack(encoded, graphs.capacity(sum(lengths), len(case.labels) * len(lengths)))
    return {"engine": lambda: graphs(padded), "engine without graphs": lambda: model(batch)}


def forward_functions(
    reference: Any, ours: ZeroShotClassificationPipeline, case: cases.Case
) -> dict[str, dict[str, Callable[[], Any]]]:
    """{"forward": ..., "pipeline": ...} -> {"reference": function, "engine": function, ...}."""
    texts, labels = cases.texts(case), list(case.labels)
    return {
        "forward": {"reference": reference_forward(reference, case), **engine_forwards(ours, case)},
        "pipeline": {
            "reference": lambda: reference(texts, labels, batch_size=len(texts)),
            "engine": lambda: ours(texts, labels),
        },
    }
