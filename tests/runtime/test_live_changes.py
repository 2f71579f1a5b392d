"""Changes of a live model that are hard to see: by their place, within a copy or a call, by other tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from gliclass_fast import GLiClassModel
from gliclass_fast.checkpoint import live
from gliclass_fast.runtime import snapshot
from tests import families
from tests.accuracy import assert_unchanged
from tests.runtime.test_live import in_place, scores
from tests.sentences import LABELS, TEXTS
from tests.tiny import fast_pipeline, reference_model


def pipeline_of(model: Any) -> Any:
    return fast_pipeline(GLiClassModel.from_gliclass(model, device="cpu"))


def test_an_option_of_the_backbone_counts_from_the_next_call() -> None:
    """It lies in a configuration within the configuration, which stays the same object."""
    model = reference_model("bert")
    pipeline = pipeline_of(model)
    before = scores(pipeline)
    model.config.encoder_config.hidden_act = "relu"
    after = scores(pipeline)
    assert after != before
    assert after == scores(pipeline_of(model))
    model.config.encoder_config.thresholds = {"a": [1]}
    scores(pipeline)
    pipeline.model.on_change = "error"
    model.config.encoder_config.hidden_act = "gelu"
    with pytest.raises(RuntimeError, match="changed since"):
        scores(pipeline)


def test_weights_that_change_while_they_are_copied_are_copied_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = reference_model("bert")
    pipeline = pipeline_of(model)
    changes = [1.5, 2.0]
    build = snapshot.load

    def beside(*given: object) -> object:
        built = build(*given)
        if changes:
            with torch.no_grad():
                next(model.parameters()).mul_(changes.pop())
        return built

    monkeypatch.setattr(snapshot, "load", beside)
    pipeline.refresh()
    assert not changes and not caplog.records
    assert scores(pipeline) == scores(pipeline_of(model))
    changes += [1.0] * 9
    pipeline.refresh()
    assert len(changes) == 4 and "changed whenever its weights were copied" in caplog.text


def test_weights_on_a_gpu_are_read_once_it_has_written_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in of a GPU writes a step when it is waited for."""
    model = reference_model("bert")
    pipeline, gpu = pipeline_of(model), torch.device("cuda", 1)
    weight, pending = model.model.classes_projector.linear_2.weight, [2.0]

    def synchronize(device: torch.device) -> None:
        assert device == gpu
        while pending:
            weight.data.mul_(pending.pop())  # nobody counts a write to `data`

    assert live.LiveModel(model).gpus() == set()
    before = scores(pipeline)
    monkeypatch.setattr(live.LiveModel, "gpus", lambda self: {gpu})
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    pipeline.refresh()
    after = scores(pipeline)
    assert not pending and after != before and after == scores(pipeline_of(model))
    pending.append(0.5)
    pipeline.model.state_dict()
    assert not pending


@pytest.mark.parametrize("given", [None, "a name", torch.nn.Linear(2, 2), torch.nn.ReLU()])
def test_what_is_no_model_of_gliclass_is_refused_by_its_type(given: object) -> None:
    with pytest.raises(TypeError, match=f"package gliclass, got {type(given).__name__}"):
        GLiClassModel.from_gliclass(given)


def test_steps_and_looks_of_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that begins while a step tells the others of itself stops neither."""

    class Growing:
        def __init__(self) -> None:
            self.left = 3

        def __iter__(self) -> Iterator[object]:
            self.left -= 1
            if self.left >= 0:
                raise RuntimeError("Set changed size during iteration")
            return iter(())

    growing = Growing()
    monkeypatch.setattr(live, "_watching", growing)
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    torch.optim.SGD([parameter], lr=0.1).step()
    assert growing.left == -1 and parameter.item() < 1


def test_a_copy_waits_for_a_step_that_is_under_way(caplog: pytest.LogCaptureFixture) -> None:
    model = reference_model("bert")
    pipeline = pipeline_of(model)
    begun, answered = threading.Event(), threading.Event()

    class Slow(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            first, *others = self.param_groups[0]["params"]
            first.mul_(3.0)
            begun.set()
            answered.wait(0.3)
            for each in others:
                each.mul_(1.5)

    optimizer = Slow(model.parameters(), lr=0.1)
    thread = threading.Thread(target=optimizer.step)
    thread.start()
    begun.wait()
    found = scores(pipeline)
    answered.set()
    thread.join()
    assert found == scores(pipeline_of(model)) and not caplog.records


def test_a_step_that_failed_is_over(caplog: pytest.LogCaptureFixture) -> None:
    model = reference_model("bert")
    pipeline = pipeline_of(model)
    pipeline.model.on_change = "error"

    class Failing(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise MemoryError

    failed, asked = threading.Event(), threading.Event()

    def train() -> None:
        with pytest.raises(MemoryError):
            Failing(model.parameters(), lr=0.1).step()
        failed.set()
        asked.wait()

    thread = threading.Thread(target=train)
    thread.start()
    failed.wait()
    scores(pipeline)
    pipeline.refresh()
    scores(pipeline)
    asked.set()
    thread.join()
    assert not live._begun and not caplog.records


def test_a_step_of_any_parameters_goes_on() -> None:
    pipeline = pipeline_of(reference_model("bert"))
    lazy = torch.nn.LazyLinear(2)
    torch.optim.SGD(lazy.parameters(), lr=0.1).step()
    scores(pipeline)


@pytest.mark.parametrize("inner", ["model", "model.encoder_model"])
def test_a_part_within_data_parallel(inner: str) -> None:
    model = reference_model("bert")
    before = scores(pipeline_of(model))
    place, _, name = inner.rpartition(".")
    parent = model.get_submodule(place)
    setattr(parent, name, torch.nn.DataParallel(getattr(parent, name)))
    assert scores(pipeline_of(model)) == before


MODELS: dict[str, Callable[[], Any]] = {
    "distances": partial(reference_model, "deberta-v2"),
    "a mask as distances": partial(families.reference, "encoder-decoder-cls, BART"),
    "a logarithm of counts": partial(reference_model, "bert", use_calibrator=True),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_nothing_depends_on_torch_s_default_dtype(dtype: torch.dtype, kind: str) -> None:
    model = MODELS[kind]()
    before = scores(pipeline_of(model))
    torch.set_default_dtype(dtype)
    try:
        assert scores(pipeline_of(model)) == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_exchanged_memory_is_noticed_where_it_has_the_old_address() -> None:
    """An allocator soon gives an address that is free again to other memory."""
    model = reference_model("bert")
    weight = model.model.text_projector.linear_2.weight
    values = weight.detach().clone().numpy()
    weight.data = torch.from_numpy(values)
    address, version = weight.data_ptr(), weight._version
    pipeline = pipeline_of(model)
    before = scores(pipeline)
    weight.data = torch.empty_like(weight)
    values *= 2
    weight.data = torch.from_numpy(values)
    assert (weight.data_ptr(), weight._version) == (address, version)
    after = scores(pipeline)
    assert after != before and after == scores(pipeline_of(model))


def test_a_step_of_a_flat_parameter_is_one_of_the_parameters_in_it() -> None:
    """Libraries that shard training keep weights as views of one long parameter."""
    model = reference_model("bert")
    parameters = list(model.parameters())
    flat = torch.nn.Parameter(torch.cat([each.detach().flatten() for each in parameters]))
    pieces = flat.detach().split([each.numel() for each in parameters])
    for each, piece in zip(parameters, pieces, strict=True):
        each.data = piece.view(each.shape)
    pipeline = pipeline_of(model)
    before = scores(pipeline)
    flat.grad = torch.ones_like(flat)
    torch.optim.SGD([flat], lr=0.1).step()
    after = scores(pipeline)
    assert after != before and after == scores(pipeline_of(model))


@pytest.mark.parametrize("prepared", [False, True])
def test_a_call_ends_while_others_exchange_the_network_without_end(
    prepared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs at most twice: where the network was exchanged meanwhile, the second run has others wait."""
    model = reference_model(scorer_type="mlp")
    fast = fast_pipeline(model)
    requests = fast.prepare(TEXTS[:3], LABELS[2]).requests
    run, threads, held = fast.engine._run, list[threading.Thread](), list[Any]()

    def exchanged(*given: Any, **named: Any) -> Any:
        assert len(threads) < 3
        rows = run(*given, **named)
        in_place(model)
        threads.append(threading.Thread(target=fast.refresh))
        threads[-1].start()
        threads[-1].join(timeout=2 if len(threads) == 1 else 0.1)
        held.append(fast.model.loaded)
        return rows

    before = fast.engine.prepare(requests)
    monkeypatch.setattr(fast.engine, "_run", exchanged)
    found = fast.engine.score_prepared(before) if prepared else fast.engine.score(requests)
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert len(threads) == 2 and held[0] is held[1] is not fast.model.loaded
    expected = [held[0].score(each.prompts).wait() for each in fast.engine.prepare(requests)]
    for ours, theirs in zip(found, expected, strict=True):
        assert_unchanged(ours.logits, theirs)


@pytest.mark.parametrize("kind", ["bi-encoder", "bi-encoder-fused"])
def test_a_model_that_moves_in_the_middle_of_a_call_breaks_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors of the labels were made by the network of before, in another dtype."""
    fast = fast_pipeline(families.reference(kind))
    encode, moved = fast.engine.reader.encode, []

    def move_after(*given: Any) -> Any:
        prompts = encode(*given)
        if not moved:
            moved.append(fast.model.to(torch.bfloat16))
        return prompts

    monkeypatch.setattr(fast.engine.reader, "encode", move_after)
    found = scores(fast)
    assert moved and found == scores(fast)
