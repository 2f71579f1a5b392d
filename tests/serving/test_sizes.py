"""The sizes of a request: what is empty costs something too, as something is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from gliclass_fast.serving.errors import TooLarge
from gliclass_fast.serving.settings import Limits
from gliclass_fast.serving.sizes import AROUND_EXAMPLE, checked_size
from gliclass_fast.text.examples import format_examples
from gliclass_fast.text.prompts import Markers

BODY: dict[str, Any] = {"texts": ["t"] * 100, "labels": ["x"]}


@pytest.mark.parametrize(
    "examples",
    [
        [{}] * 10_000,
        [{"text": "a", "labels": [""] * 200_000}],
        [{"text": "", "labels": []}] * 2_000,  # of all texts together
        [[{}] * 10_000] * 100,
        [{"text": "a", "labels": [[]] * 200_000}],
    ],
)
def test_empty_examples_are_counted(examples: list[Any]) -> None:
    with pytest.raises(TooLarge):
        checked_size({**BODY, "examples": examples}, Limits())


def test_examples_of_each_text_count_once() -> None:
    """Also where the first text has none."""
    own: list[Any] = [None, *[[{"text": "a" * 1000}]] * 99]
    assert checked_size({**BODY, "examples": own}, Limits()) < 110_000
    assert checked_size({**BODY, "examples": [None, {"text": "a" * 1000}]}, Limits()) > 100_000


def test_an_example_costs_what_stands_around_it() -> None:
    markers = Markers()
    assert len(format_examples([{}], markers)) - len(markers.sep) == AROUND_EXAMPLE
    assert checked_size({**BODY, "examples": [{}]}, Limits()) > 100 * AROUND_EXAMPLE


def test_what_is_not_given_costs_nothing() -> None:
    given = {**BODY, "examples": None, "prompt": None, "label_descriptions": None}
    assert checked_size(given, Limits()) == checked_size(BODY, Limits()) == 100 * len("t") + 100 * 2
