"""The table of operations is read at load: what this torch lacks is passed by, and never runs by accident."""

from __future__ import annotations

import pytest

from gliclass_fast import ZeroShotClassificationPipeline, demo, ops
from tests.accuracy import assert_same_results


def test_private_operators_are_there() -> None:
    assert all(ops.has_operator(name) for names in ops.PRIVATE.values() for name in names)


@pytest.mark.parametrize("place", [0, 1])
def test_without_a_private_operator_the_next_row_runs(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores() -> tuple[dict[str, str], list[list[dict[str, float]]]]:
        pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
        return pipeline.model.ops.chosen, pipeline("a film", ["music", "cooking"], threshold=0.0)

    monkeypatch.setattr(ops, "absence", lambda part: "not built")
    chosen, expected = scores()
    assert chosen["linear"] == "onednn" and chosen["attention"] == "reference"
    names = list(ops.PRIVATE["onednn"])
    names[place] = "mkldnn.renamed"
    monkeypatch.setitem(ops.PRIVATE, "onednn", tuple(names))
    chosen, found = scores()
    assert set(chosen.values()) == {"reference"}
    assert_same_results(found, expected)


def test_what_is_asked_for_by_name_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ops.PRIVATE, "onednn", ("aten.renamed",))
    with pytest.raises(ValueError, match=r"'onednn' cannot run: this torch has no operator aten\.renamed"):
        ops.choose_ops("cpu", only="onednn")


def test_a_load_tells_once_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="gliclass_fast.ops"):
        ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    assert caplog.text.count("operations on cpu") == 1


def test_a_warning_says_once_that_a_cpu_lacks_its_kernels(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ops, "absence", lambda part: "a test took them away")
    for _ in range(2):
        ops.choose_ops("cpu")
    assert [each for each in caplog.messages if "a test took them away" in each] == caplog.messages
    assert len(caplog.messages) == 1 and "slower" in caplog.text
    monkeypatch.setattr(ops, "absence", lambda part: "they are away once more")
    ops.choose_ops("cpu", only="reference")  # which asks for none of them
    assert len(caplog.messages) == 1
