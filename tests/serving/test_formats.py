"""The formats: what a body asks for, before any model sees it."""

from __future__ import annotations

import pytest

from gliclass_fast.serving.formats import HuggingFaceBody, HuggingFaceParameters, PredictBody
from gliclass_fast.serving.settings import ServeSettings


@pytest.mark.parametrize(("labels", "kind"), [(["a"], "multi-label"), (["a", "b"], "single-label")])
def test_a_single_label_has_its_own_score_whoever_names_it(labels: list[str], kind: str) -> None:
    """As a share of all labels it would be 1."""
    parameters = HuggingFaceParameters(candidate_labels=labels)
    for own, body in (
        (labels, HuggingFaceBody(inputs="x")),
        (None, HuggingFaceBody(inputs="x", parameters=parameters)),
        (labels, PredictBody(inputs="x")),
    ):
        assert body.arguments(ServeSettings(labels=own))["classification_type"] == kind
