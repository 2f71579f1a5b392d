"""Graphs are dropped where they are too many or hold too much memory, and where recording fails."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gliclass_fast.runtime.packing import run_batches
from gliclass_fast.text.prompts import Request
from tests.accuracy import assert_unchanged
from tests.runtime.recorder import Again, with_graphs
from tests.runtime.test_graphs import check_equal, tiny_model
from tests.tiny import fast_pipeline, random_prompt


def test_the_least_recently_used_graph_is_dropped() -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder, max_graphs=4)
    for tokens in (16, 16, 32, 32, 16):
        check_equal(model, [random_prompt(tokens, 1)])
    assert (
        model.loaded.graphs is not None
        and model.loaded.graphs.count == recorder.recorded == recorder.alive() == 4
    )
    check_equal(model, [random_prompt(48, 1)])
    assert model.loaded.graphs.count == recorder.alive() == recorder.recorded == 4
    check_equal(model, [random_prompt(48, 1)])
    assert model.loaded.graphs.count == recorder.alive() == 4 and recorder.recorded == 6
    check_equal(model, [random_prompt(16, 1)])  # was used after the graphs of 32
    assert recorder.recorded == 6
    check_equal(model, [random_prompt(32, 1)])
    assert recorder.recorded == 8 and recorder.alive() == 4 and recorder.renewed == 0
    assert not recorder.ended_while_running


@pytest.mark.parametrize("most", [2, 3, 4, 5, 7])
def test_a_limit_of_graphs_is_kept_and_loses_nothing(most: int) -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder, max_graphs=most)
    for seed, (tokens, labels) in enumerate([(20, 2), (90, 2), (90, 20), (40, 2), (90, 40)] * 4):
        check_equal(model, [random_prompt(tokens, labels, seed)])
        assert model.loaded.graphs.count == recorder.alive() <= most
    check_equal(model, [random_prompt(90, 40)])
    assert model.loaded.graphs.record_others and recorder.alive() > 0 and not recorder.ended_while_running


def test_a_new_tail_needs_room_for_itself_alone() -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder, max_graphs=3)
    for labels in (1, 1, 17, 17):
        check_equal(model, [random_prompt(40, labels)])
    assert recorder.recorded == recorder.alive() == 3 and recorder.renewed == 0


def test_as_many_backbones_go_as_have_to() -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder, max_graphs=3)
    for tokens, labels in ((90, 1), (90, 20), (40, 1), (40, 1)):
        check_equal(model, [random_prompt(tokens, labels)])
    assert recorder.alive() == 3  # the first backbone has no tail
    for _ in range(2):
        check_equal(model, [random_prompt(20, 1)])
    assert recorder.alive() == 2 and recorder.recorded == 5


def test_a_new_tail_of_an_old_backbone_drops_another_backbone() -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder, max_graphs=6)
    for tokens in (20, 20, 40, 40, 60, 60):
        check_equal(model, [random_prompt(tokens, 1)])
    check_equal(model, [random_prompt(20, 17)])
    assert recorder.recorded == recorder.alive() == 6  # the tail's size was not met before
    check_equal(model, [random_prompt(20, 17)])
    assert recorder.recorded == 7 and recorder.alive() == 5
    check_equal(model, [random_prompt(60, 1)])
    check_equal(model, [random_prompt(20, 1)])
    assert recorder.recorded == 7


def test_graphs_are_freed_before_a_batch_runs_in_halves() -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder)
    for _ in range(2):
        check_equal(model, [random_prompt(20, 2)])
    tried: list[tuple[list[int], int]] = []

    def run(group: list[int]) -> int:
        tried.append((group, recorder.alive()))
        if len(group) > 2:
            raise torch.OutOfMemoryError
        return len(group)

    found = list(run_batches([1] * 4, 4, run, model.loaded.free_graphs))
    assert tried == [([0, 1, 2, 3], 2), ([0, 1, 2, 3], 0), ([0, 1], 0), ([2, 3], 0)]
    assert found == [([0, 1], 2), ([2, 3], 2)]
    check_equal(model, [random_prompt(20, 2)])


def test_a_recording_that_fails_is_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    """Its batch has its scores, what was recorded is replayed, and one line says why there is no more."""
    recorder = Again()
    model = with_graphs(tiny_model(), recorder)
    for _ in range(2):
        check_equal(model, [random_prompt(64, 1)])
    recorder.failures = [RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED\nStack")] * 9
    for seed in range(4):
        check_equal(model, [random_prompt(64, 20, seed)])  # where the encoder is replayed, the tail fails
        check_equal(model, [random_prompt(16, 1, seed)])
        check_equal(model, [random_prompt(64, 1, seed)])
    assert recorder.recorded == recorder.alive() == 2 and len(recorder.failures) == 8
    [line] = caplog.messages
    assert "(RuntimeError: captures_underway.empty() INTERNAL ASSERT FAILED)" in line


def test_a_recording_that_is_interrupted_leaves_a_runner_that_records() -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder)
    check_equal(model, [random_prompt(16, 1)])
    recorder.failures = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        model.loaded.score([random_prompt(16, 1)])
    for seed in range(3):
        check_equal(model, [random_prompt(16, 1, seed)])
    assert recorder.recorded == 2


def test_who_keeps_an_error_keeps_no_graph() -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder)
    for labels in (1, 1, 20):
        check_equal(model, [random_prompt(64, labels)])
    assert recorder.alive() == 2
    recorder.failures = [torch.OutOfMemoryError("no memory for a tail")]
    with pytest.raises(torch.OutOfMemoryError) as kept:
        model.loaded.score([random_prompt(64, 20)])
    assert kept.traceback and recorder.alive() == 0 and not recorder.ended_while_running


def test_others_may_count_graphs_while_batches_run() -> None:
    model = with_graphs(tiny_model(), Again())
    tokens = (20, 40, 60, 80, 100)
    for size in tokens * 2:
        check_equal(model, [random_prompt(size, 1)])
    graphs, running, counts = model.loaded.graphs, threading.Event(), set()
    assert graphs is not None

    def count() -> None:
        while not running.is_set():
            counts.add(graphs.count)

    with ThreadPoolExecutor(1) as threads:
        counting = threads.submit(count)
        for size in tokens * 20:
            model.loaded.score([random_prompt(size, 1)]).wait()
        running.set()
        counting.result()
    assert counts == {10}


def test_memory_is_bounded_and_reported() -> None:
    recorder = Again(memory_limit=0)
    model = with_graphs(tiny_model(), recorder)
    assert model.loaded.graphs is not None
    static = model.loaded.graphs.memory
    for tokens in (16, 16, 32, 32, 48, 48):
        check_equal(model, [random_prompt(tokens, 1)])
    assert recorder.renewed == 2 and model.loaded.graphs.count == 2
    assert model.loaded.graphs.memory == static + recorder.held > static


def test_a_tail_that_finds_no_room_is_recorded_with_its_backbone() -> None:
    recorder = Again(memory_limit=0)
    model = with_graphs(tiny_model(), recorder)
    for labels in (1, 1, 20, 20, 1, 1, 20):
        check_equal(model, [random_prompt(64, labels)])
    assert recorder.recorded == 8 and recorder.alive() == model.loaded.graphs.count == 2
    assert not recorder.ended_while_running


def test_without_memory_for_a_recording_all_are_dropped_and_it_is_tried_again() -> None:
    recorder = Again()
    pipeline = fast_pipeline(with_graphs(tiny_model(), recorder))
    assert pipeline.model.loaded.graphs is not None
    text, longer = Request("x" * 20, ("a",)), Request("x" * 60, ("a",))
    expected = [each.logits for request in (text, text, longer) for each in pipeline.engine.score([request])]
    assert pipeline.model.loaded.graphs.count == 2
    recorder.failures = [torch.OutOfMemoryError("no memory for a recording")]
    for _ in range(2):
        [found] = pipeline.engine.score([longer])
        assert_unchanged(found.logits, expected[-1])
    assert not recorder.failures and pipeline.model.loaded.graphs.count == 2
