"""What is measured, behind one interface: these are the engine and the reference with parts replaced."""

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

WINDOW = 2048  # tokens: 512 of text and 256 labels fit
# the runs after which nothing is made for a batch's size any more: a CUDA graph is recorded after the first
WARM_RUNS = {"cpu": 1, "cuda": 3}
Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting is a reference model on a device in a dtype, which contenders copy or read."""

    model: Any  # It is a gliclass.GLiClassModel.
    tokenizer: Any
    device: str
    dtype: torch.dtype

    @property
    def model_type(self) -> str:
        """Returns the name of the backbone's kind."""
        return str(self.model.model.encoder_model.config.model_type)

    def copy_of_model(self) -> Any:
        return copy.deepcopy(self.model)


class Contender(Protocol):
    def tokens(self, case: Case) -> int:
        """Returns about how many tokens a run computes; times of other cases are foretold from it."""
        ...

    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        """Returns float32 logits of the first `count` texts."""
        ...

    def forward(self, case: Case) -> Run | None:
        """Returns a run of the model alone on inputs on its device, or None where there is no such thing."""
        ...

    def pipeline(self, case: Case) -> Run | None:
        """Returns a run from strings to results, or None where there is no such thing."""
        ...


class Stock:
    """The reference package's pipeline runs a model of it, whose encoder may be replaced."""

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
        """Scores text by text: for most poolings the reference's scores depend on the padding of a batch."""
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
    """The engine is gliclass-fast; it keeps the weights that the model has when it is made."""

    def tokens(self, case: Case) -> int:
        return sum(case.lengths)

    def __init__(
        self,
        setting: Setting,
        quantization: str | None = None,
        cuda_graphs: bool = True,
        dtype: str | None = None,
    ) -> None:
        self.model = GLiClassModel.from_gliclass(
            setting.model,
            device=setting.device,
            dtype=dtype or setting.dtype,
            quantization=quantization,
            cuda_graphs=cuda_graphs,
            on_change="ignore",  # else every timed call would look for changes of the reference
        )
        self.tokenizer = setting.tokenizer
        self.pipe = ZeroShotClassificationPipeline(
            self.model, setting.tokenizer, max_length=WINDOW, device=setting.device, progress_bar=False
        )

    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        """Runs the whole batch several times, and the last run counts: by then CUDA graphs are replayed."""
        requests = [Request(text, case.labels) for text in texts(case, self.tokenizer)]
        runs = 1 if self.model.loaded.graphs is None else WARM_RUNS["cuda"]
        *_, scored = (self.pipe.engine.score(requests) for _ in range(runs))
        return [each.logits[0] for each in scored[:count]]

    def forward(self, case: Case) -> Run | None:
        """Returns a run on a packed batch; with CUDA graphs it includes the copies to and from the device."""
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
