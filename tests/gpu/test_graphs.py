"""CUDA graphs replay what ran, share memory and threads, and wait for nothing, on a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.models.configuration import read_config
from gliclass_fast.runtime.cuda_graphs import CudaRecorder
from gliclass_fast.runtime.dtype import dtype_candidates
from gliclass_fast.runtime.graphs import GraphRunner
from gliclass_fast.text.prompts import Request
from tests import families
from tests.accuracy import assert_same_logits
from tests.adapters import adapted
from tests.sentences import DISTINCT, LABELS, TEXTS
from tests.tiny import ALL_SCORERS, ENCODERS, VOCABULARY, byte_tokenizer, random_prompt, reference_model


def gpu_model(
    encoder: str, scorer: str = "mlp", dtype: torch.dtype = torch.float16, **backbone: int
) -> GLiClassModel:
    reference = reference_model(encoder, backbone, scorer_type=scorer, extract_text_features=True)
    return GLiClassModel.from_gliclass(reference, device="cuda", dtype=dtype)


def gpu_pipeline(model: GLiClassModel) -> ZeroShotClassificationPipeline:
    return ZeroShotClassificationPipeline(model, byte_tokenizer(), device="cuda", progress_bar=False)


@contextmanager
def nothing_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("scorer", ALL_SCORERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_replay_equals_the_run_without_a_graph(encoder: str, scorer: str) -> None:
    model = gpu_model(encoder, scorer)
    assert model.loaded.graphs is not None
    prompts = [random_prompt(50, 3), random_prompt(7, 2), random_prompt(2, 1)]
    eager, *replayed = (model.loaded.score(prompts).wait() for _ in range(4))
    assert model.loaded.graphs.count == 2 and np.isfinite(eager).all()
    assert all(np.array_equal(each, eager) for each in replayed)


@pytest.mark.parametrize("scorer", ALL_SCORERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_nothing_waits_between_batch_and_logits(encoder: str, scorer: str) -> None:
    model = gpu_model(encoder, scorer)
    model.loaded.score([random_prompt(20, 3)]).wait()  # compiles
    with nothing_waits():
        first = model.loaded.score([random_prompt(40, 3)])
        model.loaded(model.loaded.pack([random_prompt(40, 3)]))
    model.loaded.score([random_prompt(40, 3)]).wait()  # records, which waits
    with nothing_waits():
        replayed = model.loaded.score([random_prompt(40, 3)])
    assert np.array_equal(first.wait(), replayed.wait())


@pytest.mark.parametrize("kind", families.KINDS)
def test_other_kinds_replay_what_they_ran(kind: str) -> None:
    pipeline = families.pipeline(kind, torch.float16, "cuda")
    requests = [Request(text, tuple(own)) for text, own in zip(TEXTS, DISTINCT, strict=True)]
    eager, *replayed = ([each.logits for each in pipeline.engine.score(requests)] for _ in range(4))
    recorded = kind not in ("bi-encoder-fused", "encoder-decoder-cls, T5", "encoder-decoder-cls, BART")
    assert (pipeline.model.loaded.graphs is not None) == recorded
    assert all(np.array_equal(*pair) for found in replayed for pair in zip(found, eager, strict=True))


def test_any_number_of_labels_replays_one_encoder() -> None:
    model = gpu_model("deberta-v2")
    assert model.loaded.graphs is not None
    for labels in (*range(1, 301, 13), *range(1, 301, 13)):
        found = model.loaded.score([random_prompt(512, labels)]).wait()
        assert found.shape == (1, labels) and np.isfinite(found).all()
    assert model.loaded.graphs.count == 1 + 6  # tails for up to 16, 32, 64, 128, 256 and 512 labels
    assert 0 < model.loaded.graphs.memory < 1 << 30


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_score_does_not_depend_on_its_batch(encoder: str) -> None:
    engine = gpu_pipeline(gpu_model(encoder, dtype=torch.float32)).engine
    requests = [Request(text, tuple(own)) for text, own in zip(TEXTS, LABELS, strict=True)]
    for _ in range(3):
        for request, found in zip(requests, engine.score(requests), strict=True):
            assert_same_logits(found.logits, engine.score([request])[0].logits)


def test_threads_share_a_model() -> None:
    """Some threads classify and some ask for embeddings, which runs without graphs."""
    model = gpu_model("deberta-v2")
    batches = [[random_prompt(20 + 9 * n, 1 + n % 5, n), random_prompt(33, 2, n)] for n in range(12)]
    expected = [model.loaded.score(prompts).wait() for prompts in batches]

    def run(number: int) -> bool:
        prompts = batches[number % 12]
        with torch.cuda.stream(torch.cuda.Stream()):
            if number % 5 == 0:
                return all(np.isfinite(each.logits).all() for each in model.loaded.embed(prompts))
            return np.array_equal(model.loaded.score(prompts).wait(), expected[number % 12])

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(run, range(240)))


def test_a_thread_that_never_ran_anything_records() -> None:
    model = gpu_model("modernbert")
    prompts = [random_prompt(50, 3)]
    expected = model.loaded.score(prompts).wait()
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(lambda: model.loaded.score(prompts).wait()).result()
    assert (
        model.loaded.graphs is not None and model.loaded.graphs.count == 2 and np.array_equal(found, expected)
    )
    del thread  # what was recorded outlives it
    torch.cuda.empty_cache()
    torch.full((64 << 20,), 255, dtype=torch.uint8, device="cuda")
    assert np.array_equal(model.loaded.score(prompts).wait(), expected)


@pytest.mark.parametrize("encoder", ["deberta-v2", "modernbert"])
def test_graphs_outlive_those_dropped_before_them(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropping a graph frees nothing that others use: what is free is overwritten here.

    The first size is used between all others, so its two graphs, recorded once, outlive dozens of them.
    """
    model, recorded = gpu_model(encoder, intermediate_size=4096), []
    record = CudaRecorder.record
    monkeypatch.setattr(CudaRecorder, "record", lambda *given: recorded.append(1) or record(*given))
    model.loaded.graphs = GraphRunner(
        model.loaded.network, model.device, CudaRecorder(model.device), max_graphs=6
    )
    batches = [[random_prompt(30 * n, n)] for n in (20, 1, 2, 3, 4)]
    expected = [model.loaded.score(prompts).wait() for prompts in batches]
    for _ in range(6):
        for prompts, logits in zip(batches[1:], expected[1:], strict=True):
            assert np.array_equal(model.loaded.score(prompts).wait(), logits)
            torch.full((64 << 20,), 255, dtype=torch.uint8, device="cuda")
            torch.cuda.empty_cache()
            assert np.array_equal(model.loaded.score(batches[0]).wait(), expected[0])
    assert model.loaded.graphs.count == 6 and len(recorded) == 2 + 6 * 4 * 2
    model.loaded.free_graphs()
    assert model.loaded.graphs.count == 0 and np.array_equal(
        model.loaded.score(batches[0]).wait(), expected[0]
    )


def test_after_warming_up_another_thread_may_wait_for_the_gpu() -> None:
    model = gpu_model("deberta-v2")
    model.warm_up(tokens=[64, 512], labels=[4], record_others=False)
    assert model.loaded.graphs is not None and model.loaded.graphs.count == 4
    batches = [[random_prompt(size, 3)] for size in (64, 100, 512, 700)]
    expected = [model.loaded.score(prompts).wait() for prompts in batches]
    done = threading.Event()

    def wait_again_and_again() -> None:
        while not done.is_set():
            torch.cuda.synchronize()

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(wait_again_and_again)
        try:
            for _ in range(20):
                for prompts, logits in zip(batches, expected, strict=True):
                    assert np.array_equal(model.loaded.score(prompts).wait(), logits)
        finally:
            done.set()
        waiting.result()
    assert model.loaded.graphs.count == 4


@pytest.mark.parametrize("thread", ["its own", "another"])
def test_a_recording_that_breaks_costs_no_other_model_its_graphs(
    thread: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A wait for the whole device breaks it; torch and the allocators work on."""
    model, prompts = gpu_model("deberta-v2"), [random_prompt(50, 3)]
    expected, encode = model.loaded.score(prompts).wait(), model.loaded.network.encode

    def wait() -> None:
        with suppress(RuntimeError):
            torch.cuda.synchronize()

    def waiting(batch: PackedBatch) -> tuple[torch.Tensor, ...]:
        if thread == "its own":
            torch.cuda.synchronize()
        else:
            with ThreadPoolExecutor(1) as other:
                other.submit(wait).result()
        return encode(batch)

    with monkeypatch.context() as inside:
        inside.setattr(model.loaded.network, "encode", waiting)
        assert np.array_equal(model.loaded.score(prompts).wait(), expected)
    for _ in range(3):
        assert np.array_equal(model.loaded.score(prompts).wait(), expected)
    assert model.loaded.graphs is not None and model.loaded.graphs.count == 0
    assert caplog.text.count("a CUDA graph could not be recorded") == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.cuda.empty_cache()
    torch.ones(1 << 20, pin_memory=True).cuda(non_blocking=True)
    other_model = gpu_model("bert")
    eager, *replayed = (other_model.loaded.score(prompts).wait() for _ in range(3))
    assert other_model.loaded.graphs is not None and other_model.loaded.graphs.count == 2
    assert all(np.array_equal(each, eager) for each in replayed)


def test_results_are_no_views_of_page_locked_memory() -> None:
    model = gpu_model("bert")
    for _ in range(3):
        assert not torch.from_numpy(model.loaded.score([random_prompt(20, 2)]).wait()).is_pinned()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_token_without_an_embedding_does_not_reach_the_gpu(encoder: str) -> None:
    model = gpu_model(encoder)
    foreign = random_prompt(20, 2)
    foreign.token_ids[7] = VOCABULARY
    for _ in range(3):
        with pytest.raises(IndexError, match="has no embedding"):
            model.loaded.score([foreign])
        assert np.isfinite(model.loaded.score([random_prompt(20, 2)]).wait()).all()


@pytest.mark.parametrize("encoder", ["bert", "deberta-v2"])
def test_a_slot_is_not_filled_while_another_stream_reads_it(encoder: str, tmp_path: Path) -> None:
    """Streams that are far behind the host take turns, with more adapters than slots, and ranks that grow."""
    reference, names = reference_model(encoder, scorer_type="mlp", extract_text_features=True), "abcde"
    alone, shared = (
        GLiClassModel.from_gliclass(reference, device="cuda", dtype=torch.float32) for _ in range(2)
    )
    for number, name in enumerate(names):
        adapted(reference, tmp_path / name, number, r=4 << number)
        for model in (alone, shared):
            model.load_adapter(name, tmp_path / name)

    def prompt(model: GLiClassModel, name: str) -> list[EncodedPrompt]:
        return [replace(random_prompt(40, 3), adapter=model.adapters[name])]

    expected = {name: alone.loaded.score(prompt(alone, name)).wait() for name in names}
    assert np.ptp(np.stack(list(expected.values())), axis=0).min() > 1e-3
    shared.loaded.adapter_slots.most = 2
    streams, pending = [torch.cuda.Stream() for _ in range(3)], []
    for turn in range(30):
        name = names[(3 * turn + turn // 5) % 5]
        with torch.cuda.stream(streams[turn % 3]):
            torch.cuda._sleep(20_000_000)
            pending.append((name, shared.loaded.score(prompt(shared, name))))
    for name, found in pending:
        np.testing.assert_allclose(found.wait(), expected[name], atol=1e-5)
    assert shared.loaded.graphs is not None and shared.loaded.graphs.count == 2


def test_out_of_memory_splits_and_continues(caplog: pytest.LogCaptureFixture) -> None:
    model = gpu_model("bert", dtype=torch.float32, intermediate_size=16384)
    pipeline = gpu_pipeline(model)
    requests = [Request(str(number) * 250, ("a", "b")) for number in range(64)]
    expected = [each["logits"] for each in pipeline.engine.embed(requests[:8])]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (300 << 20)) / total)
    try:
        for _ in range(2):
            found = [each.logits for each in pipeline.engine.score(requests)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "halves" in caplog.text and len(found) == 64
    for ours, theirs in zip(found, expected, strict=False):
        assert_same_logits(ours, theirs)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_sixteen_bit_is_the_default(encoder: str) -> None:
    reference = reference_model(encoder)
    model = GLiClassModel(reference.config.to_dict(), reference.state_dict, "a model")
    config = read_config(reference.config.to_dict())
    first, *_ = dtype_candidates(None, torch.device("cuda"), config, {})  # no tiny model overflows
    assert model.device.type == "cuda" and model.dtype is first and first.itemsize == 2
    assert model.loaded.graphs is not None
    assert model.to("cpu").dtype is torch.float32 and model.loaded.graphs is None
