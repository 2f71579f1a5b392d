"""The pool orders what is done with its rows; the streams of a GPU are stand-ins here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gliclass_fast.streaming.pool import PagePool


class Stream:
    """Tells in which order things happen."""

    def __init__(self, name: str, happened: list[str]) -> None:
        self.name, self.happened = name, happened

    def record_event(self) -> str:
        self.happened.append(f"end on {self.name}")
        return self.happened[-1]

    def wait_event(self, event: str) -> None:
        self.happened.append(f"{self.name} waits for the {event}")


def test_rows_are_used_in_turn_on_different_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    happened = list[str]()
    pool = PagePool(1, 1, 8, torch.float32, torch.device("cpu"))
    pool._device = torch.device("cuda")
    kept = lambda rows, stream: happened.append(f"kept for {stream.name}")  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "record_stream", kept, raising=False)

    def use(name: str, raises: bool = False) -> list[str]:
        happened.clear()
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream(name, happened))
        with pool.stream_scope():
            happened.append("used")
            if raises:
                raise ValueError
        return happened.copy()

    assert use("a") == ["kept for a", "used", "end on a"]
    assert use("b") == ["b waits for the end on a", "kept for b", "used", "end on b"]
    with pytest.raises(ValueError):
        use("a", raises=True)
    assert happened[-1] == "end on a"  # what a step that failed had launched goes on


def test_a_cpu_has_no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", None)
    pool: Any = PagePool(1, 1, 8, torch.float32, torch.device("cpu"))
    with pool.stream_scope():
        pool.reserve(1)
    assert pool.pages >= 1
