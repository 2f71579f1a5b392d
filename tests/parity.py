"""The one check of parity compares our logits, in batches and alone, with the reference's of a text alone.

It takes any kind of model, on any device and in any dtype. What the reference package gives is kept in
pytest's cache folder, under a name made of all it depends on.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.bench.gliznet_reference import GliZNet
from tests import tiny
from tests.accuracy import assert_same_logits, assert_sixteen_bit_logits
from tests.sentences import LABELS, TEXTS
from tests.tiny import fast_pipeline, loaded, reference_pipeline, tokenizer_of

PACKAGES = ("torch", "transformers", "tokenizers", "gliclass")
KEPT: dict[str, list[np.ndarray]] = {}
folder: Path | None = None  # where logits are kept after the process, set by conftest.py


class Run(NamedTuple):
    """Says how the reference is run."""

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    max_length: int = 1024


IN_FLOAT32 = Run()


def assert_parity(
    model: Any,
    texts: Sequence[str] = TEXTS,
    labels: Sequence[list[str]] = LABELS,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    backend: str | None = None,
    max_length: int = 1024,
    ours: GLiClassModel | None = None,
    keep: bool = True,
    **arguments: Any,
) -> ZeroShotClassificationPipeline:
    """Our pipeline over the weights of a reference model gives the reference's logits at batch size 1.

    In float32 logits obey `assert_same_logits`, in 16 bit `assert_sixteen_bit_logits`. ours: our model, where
    it is loaded in another way. keep: whether the reference's logits may be kept, as they may not where
    anything but weights and config changes them. arguments: a prompt or examples. Returns the pipeline.
    """
    ours = ours or loaded(model, dtype=dtype, device=device, backend=backend)
    pipeline = fast_pipeline(ours, tokenizer_of(model), max_length=max_length)
    found = [each["logits"] for each in pipeline.get_embeddings(texts, labels, **arguments)]

    def expected(run: Run) -> list[np.ndarray]:
        logits = kept_logits if keep and not isinstance(model, GliZNet) else reference_logits
        return logits(model, texts, labels, run, **arguments)

    exact = expected(Run(max_length=max_length))
    if dtype is torch.float32:
        [alone] = pipeline.get_embeddings(texts[-1:], labels[-1:], **arguments)
        for mine, theirs in zip([*found, alone["logits"]], [*exact, exact[-1]], strict=True):
            assert_same_logits(mine, theirs)
    else:
        assert_sixteen_bit_logits(found, exact, expected(Run(dtype, device, max_length)))
    return pipeline


@torch.no_grad()
def reference_logits(
    model: Any,
    texts: Sequence[str] = TEXTS,
    labels: Sequence[list[str]] = LABELS,
    run: Run = IN_FLOAT32,
    **arguments: Any,
) -> list[np.ndarray]:
    """Computes the reference's logits of every text alone, by a copy of the model."""
    model, tokens = copy.deepcopy(model), tokenizer_of(model)
    if isinstance(model, GliZNet):
        moved = model.to(device=run.device, dtype=run.dtype)
        batches = [tokens([pair]) for pair in zip(texts, labels, strict=True)]
        found = [moved(**{name: each.to(run.device) for name, each in batch.items()})[0] for batch in batches]
    else:
        pipe = reference_pipeline(model, tokens, max_length=run.max_length).pipe
        moved, pipe.device = model.to(device=run.device, dtype=run.dtype), torch.device(run.device)
        found = []
        for text, own in zip(texts, labels, strict=True):
            inputs = pipe.prepare_inputs([text], own, same_labels=True, **arguments)
            # an encoder-decoder adds empty slots
            found.append(moved(**inputs, max_num_classes=len(own)).logits[0, : len(own)])
    return [logits.float().cpu().numpy() for logits in found]


def kept_logits(
    model: Any, texts: Sequence[str], labels: Sequence[list[str]], run: Run, **arguments: Any
) -> list[np.ndarray]:
    """Gives what `reference_logits` gives, computed once by these versions on this kind of processor."""
    hardware = (
        torch.cuda.get_device_name() if run.device == "cuda" else torch.backends.cpu.get_cpu_capability()
    )
    config = {**model.config.to_dict(), "label_model_name": None}  # a temporary folder
    about = [config, texts, labels, run, hardware, arguments, *map(version, PACKAGES)]
    name = hashlib.sha256(json.dumps(about, default=str, sort_keys=True).encode())
    for source in (__file__, tiny.__file__):
        name.update(Path(source).read_bytes())
    name.update(tokenizer_of(model).backend_tokenizer.to_str().encode())
    for weight, tensor in model.state_dict().items():
        name.update(weight.encode() + tensor.detach().contiguous().numpy().tobytes())
    key = name.hexdigest()
    if key not in KEPT:
        file = None if folder is None else folder / f"{key}.npz"
        if file is not None and file.exists():
            with np.load(file) as stored:
                KEPT[key] = [stored[f"arr_{number}"] for number in range(len(texts))]
        else:
            KEPT[key] = reference_logits(model, texts, labels, run, **arguments)
            if file is not None:
                unfinished = file.with_name(f"{key}-{os.getpid()}.npz")
                np.savez(unfinished, *KEPT[key])
                unfinished.replace(file)  # at once, as other processes read it
    return KEPT[key]
