"""What is measured, behind one interface: the engine, and the reference package with parts replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.bench.cases import Case, texts
from gliclass_fast.text.prompts import Request

WINDOW = 2048  # tokens, so that 512 of text and 256 labels fit
Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """A reference model on a device in a dtype, which contenders copy or read."""

    model: Any  # gliclass.GLiClassModel
    tokenizer: Any
    device: str
    dtype: torch.dtype

    @property
    def model_type(self) -> str:
        """Of the encoder."""
        return str(self.model.model.encoder_model.config.model_type)

    def copy_of_model(self) -> Any:
        return copy.deepcopy(self.model)


class Contender(Protocol):
    def tokens(self, case: Case) -> int:
        """That one run computes, about; times of other cases are foretold from it."""
        ...

    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        """Float32 logits of the first `count` texts."""
        ...

    def forward(self, case: Case) -> Run | None:
        """The model alone, on inputs that are on its device; None where there is no such thing."""
        ...

    def pipeline(self, case: Case) -> Run | None:
        """Strings in, results out."""
        ...


class Stock:
    """The reference package's pipeline around a model of it, possibly with its encoder replaced."""

    def tokens(self, case: Case) -> int:
        return len(case.lengths) * max(case.lengths)

    def __init__(self, setting: Setting, model: Any) -> None:
        import gliclass

        self.tokenizer = setting.tokenizer
        self.pipe = gliclass.ZeroShotClassificationPipeline(
            model, setting.tokenizer, max_length=WINDOW, device=setting.device, progress_bar=False
        )

    def inputs(self, texts: list[str], labels: tuple[str, ...]) -> dict[str, Any]:
        return dict(self.pipe.pipe.prepare_inputs(texts, list(labels), same_labels=True))

    @torch.no_grad()
    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        """Text by text: for most poolings the reference's scores depend on the padding of a batch."""
        found = []
        for text in texts(case, self.tokenizer)[:count]:
            inputs = self.inputs([text], case.labels)
            logits = self.pipe.pipe.model(**inputs, max_num_classes=len(case.labels)).logits
            found.append(logits[0].float().cpu().numpy())
        return found

    def forward(self, case: Case) -> Run | None:
        inputs = self.inputs(texts(case, self.tokenizer), case.labels)

        @torch.no_grad()
        def run() -> Any:
            return self.pipe.pipe.model(**inputs, max_num_classes=len(case.labels))

        return run

    def pipeline(self, case: Case) -> Run | None:
        strings, labels = texts(case, self.tokenizer), list(case.labels)
        return lambda: self.pipe(strings, labels, batch_size=len(strings))


class Engine:
    """gliclass-fast."""

    def tokens(self, case: Case) -> int:
        return sum(case.lengths)

    def __init__(self, setting: Setting, quantization: str | None = None, cuda_graphs: bool = True) -> None:
        self.model = GLiClassModel.from_gliclass(
            setting.model,
            device=setting.device,
            dtype=setting.dtype,
            quantization=quantization,
            cuda_graphs=cuda_graphs,
        )
        self.tokenizer = setting.tokenizer
        self.pipe = ZeroShotClassificationPipeline(
            self.model, setting.tokenizer, max_length=WINDOW, device=setting.device, progress_bar=False
        )

    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        """Of the whole batch, in the last of several runs: by then CUDA graphs are replayed."""
        requests = [Request(text, case.labels) for text in texts(case, self.tokenizer)]
        runs = 1 if self.model.loaded.graphs is None else 3
        *_, scored = (self.pipe.engine.score(requests) for _ in range(runs))
        return [each.logits[0] for each in scored[:count]]

    def forward(self, case: Case) -> Run | None:
        """On a packed batch; from CUDA graphs with the copies to and from the device."""
        requests = [Request(text, case.labels) for text in texts(case, self.tokenizer)]
        encoded = self.pipe.engine.reader.encode(requests, self.pipe.engine.window)
        loaded = self.model.loaded
        if (graphs := loaded.graphs) and (capacity := graphs.capacity_for(encoded)):
            padded = loaded.pack(encoded, capacity)
            return lambda: graphs(padded)
        batch = loaded.pack(encoded).to(loaded.device)
        return lambda: loaded(batch)

    def pipeline(self, case: Case) -> Run | None:
        strings, labels = texts(case, self.tokenizer), list(case.labels)
        return lambda: self.pipe(strings, labels)
