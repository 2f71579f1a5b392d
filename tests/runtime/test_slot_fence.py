"""Slots of adapters are written when no stream reads them; the streams of a GPU are stand-ins here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gliclass_fast.runtime.slot_fence import SlotFence
from tests.adapters import LABELS, TEXTS, adapted
from tests.tiny import fast_pipeline, reference_model


class Stream:
    """Tells in which order things happen to it."""

    def __init__(self, name: str, happened: list[str]) -> None:
        self.name, self.happened = name, happened

    def record_event(self) -> Any:
        number = 1 + sum(each.startswith(f"{self.name} read") for each in self.happened)
        self.happened.append(f"{self.name} read {number}")
        return Event(f"wait for {self.name} read {number}", self.happened)

    def synchronize(self) -> None:
        self.happened.append(f"wait for {self.name}")


class Event:
    def __init__(self, line: str, happened: list[str]) -> None:
        self.line, self.happened = line, happened

    def synchronize(self) -> None:
        self.happened.append(self.line)


def test_a_slot_is_written_after_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, happened = reference_model("bert", scorer_type="mlp"), list[str]()
    pipeline = fast_pipeline(reference)
    for seed, name in enumerate("ab"):
        adapted(reference, tmp_path / name, seed)
        pipeline.load_adapter(name, tmp_path / name)
    slots = pipeline.model.loaded.adapter_slots
    slots.most, slots._fence, write = 1, SlotFence(torch.device("cuda")), slots._write
    monkeypatch.setattr(slots, "_write", lambda *given: (happened.append("write"), write(*given)))
    streams = {name: Stream(name, happened) for name in ("first", "second")}

    def run(stream: str, adapter: str) -> list[str]:
        happened.clear()
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: streams[stream])
        requests = pipeline.prepare(TEXTS[:1], LABELS, adapter_ids=adapter).requests
        with slots.lease(pipeline.engine.encode(requests)):
            happened.append("launch")
        return happened.copy()

    assert run("first", "a") == ["write", "wait for first", "launch", "first read 1"]
    assert run("first", "a") == ["launch", "first read 1"]
    assert run("second", "a") == ["launch", "second read 1"]
    # the last read of each stream comes after its others
    filled = ["wait for first read 1", "wait for second read 1", "write", "wait for second"]
    assert run("second", "b") == [*filled, "launch", "second read 1"]
    happened.clear()
    pipeline.unload_adapter("b")
    assert happened == ["wait for second read 1", "write", "wait for second"]


def test_other_streams_read_after_a_write_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    happened = list[str]()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream("its", happened))
    with pytest.raises(MemoryError), SlotFence(torch.device("cuda")).write():
        raise MemoryError
    assert happened == ["wait for its"]


def test_a_cpu_has_no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", None)
    fence = SlotFence(torch.device("cpu"))
    fence.note_read()
    with fence.write():
        pass
