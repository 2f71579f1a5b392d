"""The log of replicas: its lines come whole to the process that started them, some of them together."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gliclass_fast.serving import ray_logs
from gliclass_fast.serving.ray_logs import ReplicaLines, use_json_of_replica
from gliclass_fast.serving.ray_replica import Logs


@pytest.fixture
def own_root() -> Iterator[None]:
    """Lets a test replace the root's handlers: those that are replaced are closed, and these are pytest's."""
    handlers, level, factory = logging.root.handlers[:], logging.root.level, logging.getLogRecordFactory()
    logging.root.handlers[:] = []
    yield
    for handler in logging.root.handlers:
        handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.setLogRecordFactory(factory)


def lines_of(capfd: pytest.CaptureFixture[str], count: int) -> list[Any]:
    """Waits for so many lines of standard error, and returns them."""
    text, end = "", time.monotonic() + 20
    while text.count("\n") < count and time.monotonic() < end:
        text += capfd.readouterr().err
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.usefixtures("own_root")
def test_the_lines_of_replicas_come_through(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    use_json_of_replica(Logs("info", ReplicaLines(tmp_path).path))
    logging.getLogger("a.logger").info("an event", extra={"request_id": "7"})
    [line] = lines_of(capfd, 1)
    assert line["event"] == "an event" and line["request_id"] == "7" and line["pid"] == os.getpid()


@pytest.mark.usefixtures("own_root")
@pytest.mark.parametrize(
    ("level", "event", "sent"),
    [(logging.WARNING, "third", 3), (logging.INFO, "x" * 400, 2)],
)
def test_lines_wait_for_others_until_one_is_a_warning_or_finds_no_room(
    level: int, event: str, sent: int, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(ray_logs, "MOMENT", 1e6)
    monkeypatch.setattr(ray_logs, "LONGEST_LINE", 600)
    use_json_of_replica(Logs("info", ReplicaLines(tmp_path).path))
    logger = logging.getLogger("a.logger")
    logger.info("first")
    logger.info("second")
    time.sleep(0.05)
    assert not capfd.readouterr().err
    logger.log(level, event)
    events = ["first", "second", event]
    assert [line["event"] for line in lines_of(capfd, sent)] == events[:sent]
    logging.root.handlers[0].flush()
    assert [line["event"] for line in lines_of(capfd, len(events) - sent)] == events[sent:]
