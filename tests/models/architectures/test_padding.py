"""A batch padded to a capacity, as CUDA graphs need it, gives the logits of the batch without padding."""

from __future__ import annotations

import pytest

from gliclass_fast import GLiClassModel
from gliclass_fast.batch import Capacity
from gliclass_fast.runtime.packing import pack
from gliclass_fast.text.prompts import Request
from tests.accuracy import assert_unchanged
from tests.sentences import LABELS, TEXTS
from tests.tiny import ALL_SCORERS, ENCODERS, fast_pipeline, reference_model

RUNS = [*(("onednn", name) for name in ALL_SCORERS), ("triton", "mlp"), ("triton", "cross-attn")]
ROOM = Capacity.padded(tokens=512, prompts=16, labels=32, tiles=128)
OPTIONS = [{}, {"squeeze_layers": True}, {"class_token_pooling": "average"}]


@pytest.mark.parametrize(("backend", "scorer"), RUNS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_changes_nothing(encoder: str, backend: str, scorer: str) -> None:
    for options in OPTIONS if backend == "onednn" else OPTIONS[:1]:
        model = GLiClassModel.from_gliclass(
            reference_model(encoder, scorer_type=scorer, **options), device="cpu", backend=backend
        )
        requests = [Request(text, tuple(own)) for text, own in zip(TEXTS[:3], LABELS[:3], strict=True)]
        prompts = fast_pipeline(model).engine.reader.encode(requests, 1024)
        whole = not model.config.extract_text_features
        tight, padded = pack(prompts, whole_text=whole), pack(prompts, ROOM, whole_text=whole)
        expected, found = model.loaded(tight).logits, model.loaded(padded).logits
        assert found.shape == (ROOM.labels,)
        assert_unchanged(found[: padded.labels], expected)
