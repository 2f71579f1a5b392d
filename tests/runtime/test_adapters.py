"""Every text has the scores of PEFT's own merge of its adapter, whatever else is in the batch."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from gliclass_fast import ArgumentError, CheckpointError
from tests import families
from tests.adapters import LABELS, TEXTS, adapted, alone, assert_as_merged, backbone_of, logits
from tests.tiny import ENCODERS, MORE_ENCODERS, fast_pipeline, loaded, reference_model, tokenizer_of

DECODERS = {"llama": {"num_key_value_heads": 1}, "qwen2": {"num_key_value_heads": 1}}
EXTRAS = {
    "deberta-v2, own projections": ("deberta-v2", {"share_att_key": False}),
    "deberta-v2, c2p alone": ("deberta-v2", {"pos_att_type": ["c2p"]}),
    "electra, narrow": ("electra", {"embedding_size": 24}),
}
BACKBONES = {
    **{name: (name, {}) for name in (*ENCODERS, *MORE_ENCODERS)},
    **{name: (name, {"num_hidden_layers": 2, **changes}) for name, changes in DECODERS.items()},
    **EXTRAS,
}
MADE_OF_OTHERS = ("roberta", "xlm-roberta", "distilbert", "electra", "qwen2", "deberta-v2, c2p alone")
KINDS: list[dict[str, Any]] = [
    {},
    {"r": 3, "use_rslora": True, "lora_alpha": 3},
    {"rank_pattern": {r".*\.0\..*": 2}, "alpha_pattern": {r".*\.1\..*": 9}},
]
ENCODER = "base_model.model."
QUERY_AND_KEY = {
    "target_modules": r".*(query|key|query_proj|key_proj|pos_proj|pos_q_proj|pos_key_proj|pos_query_proj)"
}


@pytest.fixture(scope="module")
def model() -> Any:
    return reference_model(scorer_type="mlp")


def served(
    model: Any, folder: Path, kinds: list[dict[str, Any]], **settings: Any
) -> tuple[Any, dict[Any, Any]]:
    """Gives our pipeline with adapters of these kinds, and the merged models by the adapters' ids."""
    pipeline = fast_pipeline(model, tokenizer_of(model), **settings)
    merged: dict[Any, Any] = {None: model}
    for number, kind in enumerate(kinds):
        merged[f"a{number}"] = adapted(model, folder / str(number), number, **kind)
        pipeline.load_adapter(f"a{number}", folder / str(number))
    return pipeline, merged


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.nightly] if name in MADE_OF_OTHERS else []) for name in BACKBONES],
)
def test_every_backbone(name: str, tmp_path: Path) -> None:
    encoder, changes = BACKBONES[name]
    kinds = [*KINDS, QUERY_AND_KEY] if "deberta" in name else KINDS
    assert_as_merged(*served(reference_model(encoder, changes, scorer_type="mlp"), tmp_path, kinds), count=24)


@pytest.mark.slow
@pytest.mark.parametrize("kind", families.KINDS)
def test_every_architecture(kind: str, tmp_path: Path) -> None:
    assert_as_merged(*served(families.reference(kind), tmp_path, KINDS[:2]), count=12)


@pytest.mark.slow
def test_eight_adapters_in_few_slots(model: Any, tmp_path: Path) -> None:
    """Where slots are short, batches are split and the least recently used adapters leave."""
    kinds = [*KINDS, QUERY_AND_KEY, {"target_modules": ["value_proj"]}, {"r": 12}, {"r": 1}, {}]
    pipeline, merged = served(model, tmp_path, kinds, batch_tokens=4096)
    assert_as_merged(pipeline, merged)
    pipeline.model.loaded.adapter_slots.most = 3
    assert_as_merged(pipeline, merged)
    pipeline.model.adapters.host_bytes = 0  # the folders are read again
    pipeline.unload_adapter("a0")
    del merged["a0"]
    assert_as_merged(pipeline, merged)
    assert [each.rank for each in pipeline.adapters] == [3, 4, 4, 4, 12, 1, 4]
    assert [each.in_memory for each in pipeline.adapters].count(True) == 1
    twin = pickle.loads(pickle.dumps(pipeline.model))
    found = fast_pipeline(twin).get_embeddings(TEXTS[:1], LABELS, adapter_ids="a5")[0]["logits"]
    np.testing.assert_array_equal(found, logits(pipeline, TEXTS[:1], adapter_ids="a5")[0])


@pytest.mark.parametrize("backend", ["reference", "onednn"])
def test_other_backends(model: Any, backend: str, tmp_path: Path) -> None:
    ours = loaded(model, backend=backend)
    pipeline, merged = served(ours, tmp_path, []), {None: model}
    for number, kind in enumerate([*KINDS, QUERY_AND_KEY]):
        merged[f"a{number}"] = adapted(model, tmp_path / str(number), number, **kind)
        pipeline[0].load_adapter(f"a{number}", tmp_path / str(number))
    assert_as_merged(pipeline[0], merged, count=20)


def test_int8(model: Any, tmp_path: Path) -> None:
    """Factors of adapters stay in float32 beside a base in int8: the error is that of the base alone."""
    folder, text = tmp_path / "a", TEXTS[0]
    merged = adapted(model, folder, 1)
    ours = fast_pipeline(loaded(model, quantization="int8"))
    ours.load_adapter("a", folder)
    error = np.abs(logits(ours, [text])[0] - alone(model, text)).max()
    [found] = logits(ours, [text], adapter_ids=["a"])
    assert np.abs(found - alone(merged, text)).max() < 4 * error + 0.02
    assert np.abs(found - logits(ours, [text])[0]).max() > 0.1


def test_calls(model: Any, tmp_path: Path) -> None:
    """One id is for all texts; permutations, passes and chunks keep every text's adapter."""
    merged = adapted(model, tmp_path, 1)
    pipeline, expected = fast_pipeline(model), fast_pipeline(merged)
    pipeline.load_adapter("a", tmp_path)
    texts = TEXTS[:3]
    for more in ({}, {"labels_per_pass": 1}, {"label_permutations": 2}):
        wanted = expected(texts, LABELS, threshold=0.0, **more)
        found = pipeline(texts, LABELS, threshold=0.0, adapter_ids="a", **more)
        for own, theirs in zip(found, wanted, strict=True):
            assert [each["label"] for each in own] == [each["label"] for each in theirs]
            np.testing.assert_allclose(
                [each["score"] for each in own], [each["score"] for each in theirs], atol=1e-5
            )
    assert pipeline(texts, LABELS, adapter_ids=[None] * 3) == pipeline(texts, LABELS)
    inputs = pipeline.prepare_inputs(texts, LABELS)
    outputs = pipeline.model(**inputs, adapter_ids=["a", None, "a"])
    for n, each in enumerate((merged, model, merged)):
        np.testing.assert_allclose(outputs.logits[n, :3], alone(each, texts[n]), atol=1e-5)


def test_a_changed_model_keeps_its_adapters(model: Any, tmp_path: Path) -> None:
    live = copy.deepcopy(model)
    adapted(live, tmp_path, 1)
    pipeline = fast_pipeline(live)
    pipeline.load_adapter("a", tmp_path)
    logits(pipeline, TEXTS[:1], adapter_ids="a")
    with torch.no_grad():
        live.model.encoder_model.encoder.layer[0].output.dense.weight.mul_(1.5)
    merged = adapted(live, tmp_path / "again", 1)
    [found] = logits(pipeline, TEXTS[:1], adapter_ids="a")
    np.testing.assert_allclose(found, alone(merged, TEXTS[0]), atol=1e-5)


def test_whole_model_names_and_what_nothing_reads(tmp_path: Path) -> None:
    """Names may start at the model; an adapter of BERT's pooler, which nothing reads, changes nothing."""
    model = reference_model("bert", scorer_type="mlp")
    merged = adapted(model, tmp_path, 1)
    file = tmp_path / "adapter_model.safetensors"
    tensors = {
        name.replace("base_model.model.", "base_model.model.model.encoder_model."): each
        for name, each in load_file(file).items()
    }
    assert any("pooler" in name for name in tensors)
    save_file(tensors, file)
    pipeline = fast_pipeline(model)
    pipeline.load_adapter("a", tmp_path)
    [found] = logits(pipeline, TEXTS[:1], adapter_ids=["a"])
    np.testing.assert_allclose(found, alone(merged, TEXTS[0]), atol=1e-5)


def _options(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _tensors(old: str, new: str) -> Any:
    def change(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file({name.replace(old, new): each for name, each in load_file(file).items()}, file)

    return change


def _twice(folder: Path) -> None:
    """Adds the same adapter with other numbers, under names that start at the model."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    whole = f"{ENCODER}model.encoder_model."
    save_file(tensors | {name.replace(ENCODER, whole): each + 1 for name, each in tensors.items()}, file)


def _pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_options(use_dora=True), "use_dora=True is not supported"),
        (_options(bias="all"), "bias='all' is not supported"),
        (_options(r=5), "do not fit rank 5"),
        (_options(peft_type="LOHA"), "peft_type='LOHA'"),
        (_tensors("encoder.layer.0", "encoder.layer.7"), r"layer\.7.*matches no weight"),
        (_tensors("lora_A", "lora_embedding_A"), "lora_embedding_A.*is not supported"),
        (_tensors("encoder.layer.0.output.dense.lora_A", "pooler.modules_to_save"), "modules_to_save"),
        (
            _tensors(f"{ENCODER}encoder.layer.0.attention.output.dense", f"{ENCODER}text_projector.linear_1"),
            r"text_projector\.linear_1.*matches no weight",
        ),
        (
            _tensors(f"{ENCODER}encoder.layer.0.output.dense", f"{ENCODER}model.scorer.mlp.0"),
            r"model\.scorer\.mlp\.0\.weight is not supported; supported: linear layers of the backbone",
        ),
        (_twice, "has two adapters, encoder.* and model.encoder_model.encoder"),
        (_pickle, "is a pickle file"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "not the folder of an adapter"),
    ],
)  # fmt: skip
def test_folders_that_are_refused(model: Any, change: Any, message: str, tmp_path: Path) -> None:
    adapted(model, tmp_path, 1)
    pipeline = fast_pipeline(model)
    pipeline.load_adapter("fine", tmp_path)
    before = logits(pipeline, TEXTS[:2], adapter_ids=["fine", None])
    change(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        pipeline.load_adapter("mine", tmp_path)
    assert [each.id for each in pipeline.adapters] == ["fine"]
    for found, expected in zip(logits(pipeline, TEXTS[:2], adapter_ids=["fine", None]), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_another_base_model_and_unknown_ids(model: Any, tmp_path: Path) -> None:
    wide = reference_model(backbone={"hidden_size": 48}, scorer_type="mlp")
    adapted(wide, tmp_path, 1)
    pipeline = fast_pipeline(model)
    with pytest.raises(CheckpointError, match="do not fit rank 4"):
        pipeline.load_adapter("a", tmp_path)
    with pytest.raises(ValueError, match=r"adapter 'b' \(for text 1\) is not loaded"):
        pipeline(["x", "y"], LABELS, adapter_ids=[None, "b"])
    with pytest.raises(ValueError, match=r"adapter_ids has one entry per text, so it needs 2; got 1"):
        pipeline(["x", "y"], LABELS, adapter_ids=["b"])
    with pytest.raises(ValueError, match="adapter 'b' is not loaded; loaded: none"):
        pipeline.unload_adapter("b")
    with pytest.raises(ArgumentError, match="adapter_id is empty, which means no adapter"):
        pipeline.load_adapter("", tmp_path)
    with pytest.raises(TypeError, match="adapter_ids"):
        pipeline(["x"], LABELS, adapter_ids=[3])
    assert backbone_of(model)[1] == "encoder_model"


def test_the_adapters_of_a_live_model(model: Any) -> None:
    """Without an id a text has the model as it is, and with one that adapter alone."""
    live, expected = copy.deepcopy(model), {}
    config = peft.LoraConfig(r=3, target_modules=["query_proj", "key_proj", "dense"], init_lora_weights=False)
    wrapped = peft.get_peft_model(live.model.encoder_model, config, adapter_name="a")
    wrapped.add_adapter("b", config)
    live.model.encoder_model = wrapped
    for name in "ab":
        merged = copy.deepcopy(live)
        merged.model.encoder_model.set_adapter(name)
        merged.model.encoder_model = merged.model.encoder_model.merge_and_unload()
        expected[name] = alone(merged, TEXTS[0])
    assert np.abs(expected["a"] - expected["b"]).max() > 0.01
    pipeline, texts = fast_pipeline(live), TEXTS[:1] * 3
    for active in "ab":
        wrapped.set_adapter(active)
        found = logits(pipeline, texts, adapter_ids=["a", "b", None])
        for own, name in zip(found, ("a", "b", active), strict=True):
            np.testing.assert_allclose(own, expected[name], atol=1e-5)
    with torch.no_grad():
        wrapped.base_model.model.encoder.layer[0].output.dense.lora_B["a"].weight.zero_()
    [changed] = logits(pipeline, texts[:1], adapter_ids="a")
    assert np.abs(changed - expected["a"]).max() > 1e-3
    wrapped.merge_adapter(["a"])  # which is not the active one
    found = logits(pipeline, texts, adapter_ids=["a", "b", "b"])
    for own, wanted in zip(found, (changed, expected["b"], expected["b"]), strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-5)
    wrapped.unmerge_adapter()
    wrapped.set_adapter("a")
    wrapped.delete_adapter("b")
    with pytest.raises(ValueError, match=r"adapter 'b'.* is not loaded"):
        logits(pipeline, texts[:1], adapter_ids="b")


def test_a_live_model_gets_more_adapters(model: Any, tmp_path: Path) -> None:
    """They count from the next call on, those of a folder stand alone too, and copies have all."""
    merged = adapted(model, tmp_path, 1)
    live, config = copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=["value_proj", "dense"])
    wrapped = peft.get_peft_model(live.model.encoder_model, config, adapter_name="a")
    live.model.encoder_model = wrapped
    pipeline = fast_pipeline(live)
    for each in (n for name, n in wrapped.named_parameters() if "lora_B" in name):
        torch.nn.init.normal_(each)
    with_a = logits(pipeline, TEXTS[:1])[0]
    wrapped.add_adapter("b", config)  # as it begins, it changes nothing
    pipeline.load_adapter("folder", tmp_path)
    expected = {"b": alone(model, TEXTS[0]), "folder": alone(merged, TEXTS[0]), "a": with_a, None: with_a}
    for each in (pipeline, pickle.loads(pickle.dumps(pipeline))):
        found = logits(each, TEXTS[:1] * 4, adapter_ids=list(expected))
        for own, wanted in zip(found, expected.values(), strict=True):
            np.testing.assert_allclose(own, wanted, atol=1e-5)
    wrapped.add_adapter("c", config)
    inputs = pipeline.prepare_inputs(TEXTS[:1], LABELS)
    np.testing.assert_allclose(
        pipeline.model(**inputs, adapter_ids="c").logits[0, :3], expected["b"], atol=1e-5
    )
    pipeline.model.load_state_dict(model.state_dict(), strict=False)  # and it is no live model any more
    np.testing.assert_allclose(
        logits(pipeline, TEXTS[:1], adapter_ids="folder")[0], expected["folder"], atol=1e-5
    )
    assert [each.id for each in pipeline.adapters] == ["folder"]


def test_what_is_off_in_a_live_model_is_in_nobodys_way(model: Any, tmp_path: Path) -> None:
    merged, live = adapted(model, tmp_path, 1), copy.deepcopy(model)
    config = peft.LoraConfig(r=2, target_modules=["dense"], modules_to_save=["rel_embeddings"])
    live.model.encoder_model = peft.get_peft_model(live.model.encoder_model, config)
    live.model.encoder_model.base_model.disable_adapter_layers()
    pipeline = fast_pipeline(live)
    pipeline.load_adapter("folder", tmp_path)
    found = logits(pipeline, TEXTS[:1], adapter_ids="folder")[0]
    np.testing.assert_allclose(found, alone(merged, TEXTS[0]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["query_proj", "word_embeddings"]}, "not plain LoRA on .*word_embeddings"),
        ({"target_modules": ["dense"], "lora_bias": True}, "not plain LoRA"),
        ({"target_modules": ["dense"], "modules_to_save": ["rel_embeddings"]}, "modules_to_save"),
    ],
)
def test_live_adapters_that_are_refused(model: Any, options: dict[str, Any], message: str) -> None:
    """They are merged where they are active, and cannot be one text's."""
    live = copy.deepcopy(model)
    config = peft.LoraConfig(r=3, init_lora_weights=False, **options)
    live.model.encoder_model = peft.get_peft_model(live.model.encoder_model, config, adapter_name="a")
    pipeline = fast_pipeline(live)
    before = logits(pipeline, TEXTS[:1])
    errors = []
    for _ in range(2):
        with pytest.raises(CheckpointError, match=message) as raised:
            logits(pipeline, TEXTS[:1], adapter_ids="a")
        errors.append(raised.value)
    assert errors[0] is not errors[1]  # one error would gather the frames of all calls
    np.testing.assert_array_equal(logits(pipeline, TEXTS[:1]), before)


def test_one_that_is_replaced_leaves_its_slot(model: Any, tmp_path: Path) -> None:
    adapted(model, tmp_path, 1)
    pipeline = fast_pipeline(model)
    for _ in range(3):
        pipeline.load_adapter("a", tmp_path)
        logits(pipeline, TEXTS[:1], adapter_ids="a")
    assert len(pipeline.model.loaded.adapter_slots) == 1


def test_a_relative_folder_stays_the_same_one(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted(model, tmp_path / "a", 1)
    pipeline = fast_pipeline(model)
    with monkeypatch.context() as inside:
        inside.chdir(tmp_path)
        pipeline.load_adapter("a", "a")
    before = logits(pipeline, TEXTS[:1], adapter_ids="a")
    twin = pickle.loads(pickle.dumps(pipeline))  # which reads the folder again
    np.testing.assert_allclose(logits(twin, TEXTS[:1], adapter_ids="a"), before, atol=1e-6)


def test_threads_share_few_slots(model: Any, tmp_path: Path) -> None:
    pipeline, merged = served(model, tmp_path, [{}, {"r": 2}, {"r": 5}])
    pipeline.model.loaded.adapter_slots.most = 2
    del merged[None]
    expected = {id: alone(each, TEXTS[0]) for id, each in merged.items()}

    def check(turn: int) -> None:
        id = list(merged)[turn % 3]
        np.testing.assert_allclose(logits(pipeline, TEXTS[:1], adapter_ids=id)[0], expected[id], atol=1e-5)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(check, range(40)))
