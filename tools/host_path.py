"""What happens around the model: strings become a packed batch, and logits become results.

The models are stubs. `functions` has the engine's pipeline, the reference's, and tokenising the bare texts in
one call, which nobody can avoid. `launches` shows what a replay of CUDA graphs costs the host, from encoded
prompts to the launch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline, demo
from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.bench.cases import demo_tokenizer, words
from gliclass_fast.runtime.graphs import GraphRunner, Run
from gliclass_fast.runtime.transfer import PendingLogits
from gliclass_fast.text.prompts import Request

TEXTS = 64
TOKENS = 56  # of a text, roughly
LABEL_COUNTS = (10, 77)
LAUNCHED = ((1, 128), (64, 256))  # A pair is (prompts, about how many tokens each has).
ONE_BATCH = 1 << 20  # tokens of a batch, more than any call here has


def functions(labels: int) -> dict[str, Callable[[], Any]]:
    """Maps a name to a call on 64 texts and so many labels."""
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


class NoDevice:
    """This recorder of CUDA graphs makes replays do nothing: what is left is the work of the host."""

    memory_limit = 1 << 40

    @contextmanager
    def stream_scope(self) -> Iterator[None]:
        yield

    def record(self, run: Run) -> Run:
        out = run()
        return lambda: out

    def synchronize(self) -> None:
        pass

    def new_pool(self) -> None:
        pass

    def memory(self) -> int:
        return 0


def launches(count: int, tokens: int) -> dict[str, Callable[[], Any]]:
    """Maps a name to a call on so many prompts of about so many tokens, which include ten labels each."""
    rng = random.Random(0)
    known = words(demo_tokenizer())
    texts = [" ".join(rng.choices(known, k=tokens - 30)) for _ in range(count)]
    labels = tuple(rng.choices(known, k=10))
    model = GLiClassModel.from_pretrained(demo.PATH, device="cpu")
    pipeline = ZeroShotClassificationPipeline(model, demo_tokenizer(), device="cpu", progress_bar=False)
    requests = [Request(text, labels) for text in texts]
    prompts = pipeline.engine.reader.encode(requests, pipeline.engine.window)
    model.loaded.network.score_recordable = model.loaded.network.encode_recordable = True
    model.loaded.graphs = GraphRunner(model.loaded.network, model.device, NoDevice())
    for _ in range(2):  # By then it replays.
        model.loaded.score(prompts)
    return {
        "gliclass-fast": lambda: model.loaded.score(prompts),
        "bare texts": lambda: demo_tokenizer()(texts),
    }


def _engine() -> Any:
    pipeline = ZeroShotClassificationPipeline(
        demo.PATH, device="cpu", progress_bar=False, batch_tokens=ONE_BATCH
    )
    model = pipeline.engine.model

    def score(prompts: Sequence[EncodedPrompt]) -> PendingLogits:
        batch = model.loaded.pack(prompts)
        return PendingLogits.copy(torch.zeros(1, batch.num_labels))

    model.loaded.score = score  # type: ignore[method-assign]
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
