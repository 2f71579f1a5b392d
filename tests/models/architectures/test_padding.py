"""A batch padded to a capacity, as CUDA graphs need it, gives the logits of the batch without padding."""

from __future__ import annotations

from itertools import cycle

import pytest

from gliclass_fast.batch import Capacity
from gliclass_fast.runtime.packing import pack
from gliclass_fast.text.prompts import Request
from tests.accuracy import assert_unchanged
from tests.sentences import LABELS, SHORT_LABELS, SHORT_TEXTS, TEXTS
from tests.tiny import ALL_SCORERS, ENCODERS, fast_pipeline, loaded, reference_model

# the interpreter of Triton is slow: every backbone once, every kind of scorer
RUNS = [
    *((encoder, "onednn", scorer) for encoder in ENCODERS for scorer in ALL_SCORERS),
    *(
        pytest.param(encoder, "triton", scorer, marks=pytest.mark.nightly if number else [])
        for number, (encoder, scorer) in enumerate(zip(ENCODERS, cycle(("mlp", "cross-attn"))))
    ),
]
OPTIONS = [{}, {"squeeze_layers": True}, {"class_token_pooling": "average"}]


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "backend", "scorer"), RUNS)
def test_padding_changes_nothing(encoder: str, backend: str, scorer: str) -> None:
    few = backend == "triton"
    texts, labels = (SHORT_TEXTS, SHORT_LABELS) if few else (TEXTS[:3], LABELS[:3])
    room = Capacity.padded(tokens=64 if few else 512, prompts=16, labels=32, tiles=32 if few else 128)
    for options in OPTIONS[:1] if few else OPTIONS:
        reference = reference_model(encoder, scorer_type=scorer, **options)
        model = loaded(reference, backend=backend)
        requests = [Request(text, tuple(own)) for text, own in zip(texts, labels, strict=True)]
        prompts = fast_pipeline(model).engine.reader.encode(requests, 1024)
        whole = not model.config.extract_text_features
        tight, padded = pack(prompts, whole_text=whole), pack(prompts, room, whole_text=whole)
        expected, found = model.loaded(tight).logits, model.loaded(padded).logits
        assert found.shape == (room.labels,)
        assert_unchanged(found[: padded.num_labels], expected)
