"""What happens around the model: strings to a packed batch, logits to results. The models are stubs.

The engine's pipeline, the reference's, and tokenising the bare texts in one call, which nobody can avoid.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.bench.cases import demo_tokenizer, words
from gliclass_fast.transfer import PendingLogits

TEXTS = 64
TOKENS = 56  # about, per text
LABEL_COUNTS = (10, 77)
ONE_BATCH = 1 << 20  # tokens, as on a GPU


def functions(labels: int) -> dict[str, Callable[[], Any]]:
    """Name -> a call on 64 texts and so many labels."""
    rng = random.Random(0)
    known = words(demo_tokenizer())
    texts = [" ".join(rng.choices(known, k=TOKENS - 2)) for _ in range(TEXTS)]
    names = [" ".join(rng.choices(known, k=2)) for _ in range(labels)]
    ours, reference = _engine(), _reference()
    return {
        "gliclass-fast": lambda: ours(texts, names),
        "gliclass": lambda: reference(texts, names, batch_size=TEXTS),
        "bare texts": lambda: demo_tokenizer()(texts),
    }


def _engine() -> Any:
    pipeline = ZeroShotClassificationPipeline(
        demo.PATH, device="cpu", progress_bar=False, batch_tokens=ONE_BATCH
    )
    model = pipeline.engine.model

    def score(prompts: Sequence[EncodedPrompt]) -> PendingLogits:
        batch = model.pack(prompts)
        return PendingLogits.copy(torch.zeros(1, batch.labels))

    model.score = score  # type: ignore[method-assign]
    return pipeline


def _reference() -> Any:
    import gliclass

    model = gliclass.GLiClassModel.from_pretrained(str(demo.PATH))
    pipeline = gliclass.ZeroShotClassificationPipeline(
        model, demo_tokenizer(), device="cpu", progress_bar=False
    )

    def forward(input_ids: torch.Tensor, max_num_classes: int, **_: Any) -> Any:
        return SimpleNamespace(logits=torch.zeros(len(input_ids), max_num_classes))

    pipeline.pipe.model.forward = forward
    return pipeline
