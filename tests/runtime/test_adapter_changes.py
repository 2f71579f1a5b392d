"""Adapters that are replaced, unloaded or written anew while others use them, and ids that are no ids."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Waiting
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from gliclass_fast import CheckpointError
from gliclass_fast.runtime import adapters
from tests.adapters import LABELS, TEXTS, adapted, alone, logits
from tests.tiny import fast_pipeline, reference_model


@pytest.fixture(scope="module")
def model() -> Any:
    return reference_model(scorer_type="mlp")


def wrapped(model: Any, *names: str) -> Any:
    """Gives a copy of a model with adapters of PEFT, of which the first is active."""
    live = copy.deepcopy(model)
    config = peft.LoraConfig(r=3, target_modules=["value_proj", "dense"], init_lora_weights=False)
    inner = peft.get_peft_model(live.model.encoder_model, config, adapter_name=names[0])
    for name in names[1:]:
        inner.add_adapter(name, config)
    live.model.encoder_model = inner
    return live


def test_threads_wait_for_a_rebuild(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread reads a changed live model, the others find its adapters, and take the new ones."""
    live = wrapped(model, "a", "b")
    pipeline = fast_pipeline(live)
    before = logits(pipeline, TEXTS[:1], adapter_ids="b")[0]
    with torch.no_grad():
        live.model.encoder_model.base_model.model.encoder.layer[0].output.dense.lora_B["b"].weight.mul_(3)
    expected = logits(fast_pipeline(live), TEXTS[:1], adapter_ids="b")[0]
    assert np.abs(expected - before).max() > 1e-3
    reads, go_on, live_updates = threading.Event(), threading.Event(), adapters.live_updates

    def slow(*arguments: Any) -> Any:
        reads.set()
        assert go_on.wait(30)
        return live_updates(*arguments)

    monkeypatch.setattr(adapters, "live_updates", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(logits, pipeline, TEXTS[:1])
        try:
            assert reads.wait(30)
            assert "b" in pipeline.model.adapters and len(pipeline.adapters) == 2
            second = pool.submit(logits, pipeline, TEXTS[:1], adapter_ids="b")
            with pytest.raises(Waiting):
                second.result(0.3)
        finally:
            go_on.set()
        first.result()
        np.testing.assert_allclose(second.result()[0], expected, atol=1e-5)


def test_a_folder_that_is_written_again(model: Any, tmp_path: Path) -> None:
    """What a folder holds later is another adapter, which nobody loaded."""
    for number in "12":
        adapted(model, tmp_path / number, int(number))
    pipeline = fast_pipeline(model)
    pipeline.model.adapters.host_bytes = 0  # of the newest alone
    pipeline.load_adapter("a", tmp_path / "1")
    pipeline.load_adapter("b", tmp_path / "2")
    merged = adapted(model, tmp_path / "1", 3, r=2)
    with pytest.raises(CheckpointError, match=r"/1 changed since adapter 'a' was loaded: load it again"):
        logits(pipeline, TEXTS[:1], adapter_ids="a")
    pipeline.load_adapter("a", tmp_path / "1")
    found = logits(pipeline, TEXTS[:1], adapter_ids="a")[0]
    np.testing.assert_allclose(found, alone(merged, TEXTS[0]), atol=1e-5)
    shutil.rmtree(tmp_path / "2")
    with pytest.raises(CheckpointError, match=r"/2 holds no adapter_config\.json"):
        logits(pipeline, TEXTS[:1], adapter_ids="b")


def test_a_copy_takes_the_files_as_it_finds_them(model: Any, tmp_path: Path) -> None:
    """On another machine they are copies, with other times."""
    merged = adapted(model, tmp_path / "a", 1)
    pipeline = fast_pipeline(model)
    pipeline.load_adapter("a", tmp_path / "a")
    for file in (tmp_path / "a").iterdir():
        os.utime(file, (0, 0))
    there = pickle.loads(pickle.dumps(pipeline))
    found = logits(there, TEXTS[:1], adapter_ids="a")[0]
    np.testing.assert_allclose(found, alone(merged, TEXTS[0]), atol=1e-5)
    there.model.adapters.host_bytes = 0
    adapted(model, tmp_path / "b", 2)
    there.load_adapter("b", tmp_path / "b")
    adapted(model, tmp_path / "a", 3)
    with pytest.raises(CheckpointError, match="changed since adapter 'a' was loaded"):
        there.model.adapters["a"].updates()


def test_a_text_that_waits_keeps_its_adapter(model: Any, tmp_path: Path) -> None:
    """Its folder may go, and its slot is empty once the text has been read."""
    merged = adapted(model, tmp_path / "a", 1)
    pipeline = fast_pipeline(model)
    pipeline.load_adapter("a", tmp_path / "a")
    waiting = pipeline.engine.prepare(pipeline.prepare(TEXTS[:1], LABELS, adapter_ids="a").requests)
    pipeline.unload_adapter("a")
    shutil.rmtree(tmp_path / "a")
    [found] = pipeline.engine.score_prepared(waiting)
    np.testing.assert_allclose(found.logits[0], alone(merged, TEXTS[0]), atol=1e-5)
    assert len(pipeline.model.loaded.adapter_slots) == 0


def test_one_that_is_replaced_in_use_leaves_its_slot(model: Any, tmp_path: Path) -> None:
    adapted(model, tmp_path, 1)
    pipeline = fast_pipeline(model)
    pipeline.load_adapter("a", tmp_path)
    requests = pipeline.prepare(TEXTS[:1], LABELS, adapter_ids="a").requests
    prompts, slots = pipeline.engine.encode(requests), pipeline.model.loaded.adapter_slots
    with slots.lease(prompts), slots.lease(prompts):
        pipeline.load_adapter("a", tmp_path)
        assert prompts[0].adapter in slots
    assert prompts[0].adapter not in slots
    with slots.lease(pipeline.engine.encode(requests)):
        pass
    assert len(slots) == 1  # one that is loaded stays


def test_a_folder_and_a_live_model_have_one_id(model: Any, tmp_path: Path) -> None:
    """The folder's stands before the live model's, which comes back and cannot be unloaded."""
    merged = adapted(model, tmp_path, 1)
    live = wrapped(model, "a")
    pipeline = fast_pipeline(live)
    own = logits(pipeline, TEXTS[:1], adapter_ids="a")[0]
    pipeline.load_adapter("a", tmp_path)
    found = logits(pipeline, TEXTS[:1], adapter_ids="a")[0]
    np.testing.assert_allclose(found, alone(merged, TEXTS[0]), atol=1e-5)
    assert [each.folder for each in pipeline.adapters] == [str(tmp_path)]
    pipeline.unload_adapter("a")
    np.testing.assert_allclose(logits(pipeline, TEXTS[:1], adapter_ids="a")[0], own, atol=1e-5)
    with pytest.raises(ValueError, match="adapter 'a' belongs to the live model: delete it there"):
        pipeline.unload_adapter("a")
    assert [each.folder for each in pipeline.adapters] == [None]


def test_a_shallow_copy_has_adapters_of_its_own(model: Any, tmp_path: Path) -> None:
    adapted(model, tmp_path, 1)
    pipeline = fast_pipeline(model)
    pipeline.load_adapter("a", tmp_path)
    twin = copy.copy(pipeline.model)
    twin.unload_adapter("a")
    assert "a" in pipeline.model.adapters and "a" not in twin.adapters


def test_a_layer_that_is_folded_into_the_embeddings(tmp_path: Path) -> None:
    narrow = reference_model(backbone={"embedding_size": 24}, scorer_type="mlp")
    adapted(narrow, tmp_path, 1)
    message = r"embed_proj\.weight is not supported: .* folded into the embeddings.*supported: other linear"
    pipeline = fast_pipeline(narrow)
    with pytest.raises(CheckpointError, match=message):
        pipeline.load_adapter("a", tmp_path)
    merged = adapted(narrow, tmp_path / "others", 1, exclude_modules=["embed_proj"])
    pipeline.load_adapter("a", tmp_path / "others")
    found = logits(pipeline, TEXTS[:1], adapter_ids="a")[0]
    np.testing.assert_allclose(found, alone(merged, TEXTS[0]), atol=1e-5)


def test_what_is_no_id_and_no_folder(model: Any, tmp_path: Path) -> None:
    adapted(model, tmp_path, 1)
    ours = fast_pipeline(model).model
    for id in (3, None, b"a", True, ["a"]):
        with pytest.raises(TypeError, match="adapter_id must be a string, got"):
            ours.load_adapter(id, tmp_path)
        with pytest.raises(TypeError, match="adapter_id must be a string, got"):
            ours.unload_adapter(id)
    for folder in (None, 3, ["x"], b"x"):
        with pytest.raises(TypeError, match="folder of an adapter must be a path or a repository id, got"):
            ours.load_adapter("a", folder)
    file = tmp_path / "adapter_config.json"
    for folder, message in (("", "the folder is an empty string"), (str(file), "json is a file")):
        with pytest.raises(CheckpointError, match=f"{message}.*which holds adapter_config.json"):
            ours.load_adapter("a", folder)
    assert len(ours.adapters) == 0
