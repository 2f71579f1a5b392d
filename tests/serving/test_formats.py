"""The formats: what a body asks for, before any model sees it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from pydantic import ValidationError

from gliclass_fast.serving.errors import Invalid, RequestError, TooLarge
from gliclass_fast.serving.formats import ClassifyBody, HuggingFaceBody, HuggingFaceParameters, PredictBody
from gliclass_fast.serving.settings import Limits, ServeSettings


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


def asked(labels: Any, template: str = "{}") -> HuggingFaceBody:
    parameters = HuggingFaceParameters(candidate_labels=labels, hypothesis_template=template)
    return HuggingFaceBody(inputs="x", parameters=parameters)


MANY = [f"{index:x}" for index in range(50_000)]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (asked(MANY, "{}" + "é" * 990), Invalid),
        (asked(MANY), Invalid),
        (asked(",".join(MANY)), Invalid),
        (asked(MANY[:900], "{}" + "é" * 990), TooLarge),
        (asked([9_000 * "a"], "{0}" * 300), TooLarge),
    ],
)
def test_labels_are_counted_before_anything_is_made_of_them(
    body: HuggingFaceBody, error: type[RequestError]
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(error, match="allowed"):
            body.arguments(ServeSettings())
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_as_many_labels_as_allowed_are_taken() -> None:
    settings = ServeSettings(limits=Limits(labels=3, characters=18))
    for labels in (["a", "b", "c"], "a, b,c", "a,b,c,"):
        found = asked(labels, "is {}.").arguments(settings)
        assert found["labels"] == ["a", "b", "c"] and found["label_descriptions"]["c"] == "is c."


@pytest.mark.parametrize(
    "template",
    [
        "{0.__class__}", "{.__class__}", "{0[0]}", "{0.__class__.__mro__[1]} {0}", "{label}", "{1}", "{} {}",
        "{} {0}", "{:1000000000}", "{:{}}", "{!r}", "{", "a } b {}", "nothing", "{{}}", "",
    ],
)  # fmt: skip
def test_a_template_has_places_for_the_label_alone(template: str) -> None:
    """Fields of `str.format` may read attributes of what they show, or have any width."""
    with pytest.raises(Invalid, match="hypothesis_template"):
        asked(["a", "b"], template).arguments(ServeSettings())


@pytest.mark.parametrize("template", ["about {}", "about {0}", "{0}, that is {0}", "{{}} is {}", "{}", "{}%"])
def test_a_template_means_what_it_means_in_transformers(template: str) -> None:
    found = asked(["a {x}", "b"], template).arguments(ServeSettings())["label_descriptions"]
    wanted = {label: template.format(label) for label in ("a {x}", "b")}
    assert (found or {label: label for label in wanted}) == wanted


def test_only_a_few_of_the_unknown_keys_are_errors() -> None:
    """The errors are the same as without the rest, as an answer names three at most."""
    known = {"texts": 5, "labels": ["a"]}
    with pytest.raises(ValidationError) as caught:
        ClassifyBody.model_validate({**known, **dict.fromkeys(MANY)})
    places = [".".join(map(str, each["loc"])) for each in caught.value.errors()]
    assert places == ["texts.str", "texts.list[str]", "0", "1", "2"]
    with pytest.raises(ValidationError, match="treshold\n  Extra inputs are not permitted"):
        ClassifyBody.model_validate({"texts": "a", "treshold": 0.5})
    assert ClassifyBody.model_json_schema()["additionalProperties"] is False
