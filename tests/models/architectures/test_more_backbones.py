"""Some options of MORE_ENCODERS are refused; test_uni_encoder.py runs the supported ones."""

from __future__ import annotations

import pytest

from gliclass_fast import GLiClassModel
from gliclass_fast.config import UnsupportedConfigError
from tests.tiny import reference_model


def test_talking_heads_are_refused() -> None:
    model = reference_model("deberta", {"talking_head": True})
    with pytest.raises(UnsupportedConfigError, match="talking_head"):
        GLiClassModel.from_gliclass(model, device="cpu")


def test_segment_embeddings_of_another_width_are_refused() -> None:
    model = reference_model("electra", {"embedding_size": 12}, use_segment_embeddings=True)
    with pytest.raises(UnsupportedConfigError, match="embedding_size"):
        GLiClassModel.from_gliclass(model, device="cpu")
