"""Values of Python become those of JSON, and only 1 and 0 become flags."""

from __future__ import annotations

import numpy as np

from gliclass_fast.serving.python_values import plain_arguments


def test_arguments_of_a_call_become_plain() -> None:
    found = plain_arguments(
        multi_label=(1, np.False_, 2, 0.0, True), labels=np.array(["a"]), threshold=np.float32(0.5)
    )
    assert found == {"multi_label": [True, False, 2, 0.0, True], "labels": ["a"], "threshold": 0.5}
    assert [type(each) for each in found["multi_label"]] == [bool, bool, int, float, bool]
