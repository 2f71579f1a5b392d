"""A model shows the tensors and options of its checkpoint as a stock model does, and takes others."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import gliclass
import peft
import pytest
import torch
from safetensors.torch import load_file

from gliclass_fast import ArgumentError, CheckpointError, GLiClassModel, demo
from gliclass_fast.config import STOCK_DEFAULTS, GLiClassModelConfig, ModelConfig
from gliclass_fast.model import GLiClassOutput
from tests import families
from tests.accuracy import assert_same_results
from tests.adapters import backbone_of
from tests.sentences import LABELS, TEXTS
from tests.tiny import byte_tokenizer, fast_pipeline, loaded, reference_model, reference_pipeline


def scores(pipeline: Any) -> Any:
    return pipeline(TEXTS[:3], LABELS[2], threshold=0.0)


def test_parameters_are_those_of_the_checkpoint() -> None:
    reference = gliclass.GLiClassModel.from_pretrained(demo.PATH)
    ours = GLiClassModel.from_pretrained(demo.PATH, device="cpu")
    expected = dict(reference.named_parameters())
    found = dict(ours.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert ours.num_parameters() == reference.num_parameters() == sum(p.numel() for p in ours.parameters())
    assert ours.num_parameters(only_trainable=True) == 0
    assert ours.eval() is ours.train(False) is ours and not ours.training
    with pytest.raises(RuntimeError, match="the engine only infers: train the gliclass model"):
        ours.train()
    with pytest.raises(NotImplementedError, match=r"save_pretrained.*upload_folder"):
        ours.push_to_hub("somebody/something")
    assert repr(ours) == f"GLiClassModel({str(demo.PATH)!r}, float32 on cpu)"
    moved = ours.to(device="cpu", dtype=torch.bfloat16, non_blocking=True)
    assert moved is ours and ours.dtype is torch.bfloat16


def test_configurations_are_those_of_the_reference(tmp_path: Path) -> None:
    expected = gliclass.GLiClassModelConfig.from_pretrained(demo.PATH).to_dict()
    model = GLiClassModel.from_pretrained(demo.PATH)
    reference = gliclass.GLiClassModel.from_pretrained(demo.PATH)
    assert model.config.to_dict() == reference.config.to_dict()
    for each in (model, pickle.loads(pickle.dumps(model)), GLiClassModel.from_gliclass(reference)):
        assert each.name_or_path == each.config.name_or_path == reference.name_or_path == str(demo.PATH)
    assert loaded(reference_model()).name_or_path == ""
    model.save_pretrained(tmp_path)
    assert str(demo.PATH) not in (tmp_path / "config.json").read_text()  # nobody's paths are given away
    assert GLiClassModelConfig.from_pretrained(demo.PATH).to_dict() == expected
    assert model.config.encoder_config.hidden_size == expected["encoder_config"]["hidden_size"]
    new: dict[str, Any] = {"pooling_strategy": "avg", "label_model_name": "x"}
    new["label_model_config"] = {"model_type": "bert"}
    ours, theirs = GLiClassModelConfig(**new), gliclass.GLiClassModelConfig(**new)
    ours.save_pretrained(tmp_path)
    for mine in (ours, GLiClassModelConfig.from_pretrained(tmp_path)):
        assert mine.to_dict() == theirs.to_dict()
    assert ours.class_token_index == ours.vocab_size == theirs.class_token_index


def test_a_new_configuration_has_every_attribute_of_the_reference() -> None:
    ours, theirs = GLiClassModelConfig(), gliclass.GLiClassModelConfig()
    names = [name for name in dir(theirs) if not name.startswith("_") and hasattr(theirs, name)]
    assert len(names) > 60 and [name for name in names if not hasattr(ours, name)] == []
    assert ours.to_dict() == theirs.to_dict() and ours.is_composition is theirs.is_composition
    parameters = inspect.signature(type(theirs)).parameters
    assert list(parameters)[4:-1] == list(STOCK_DEFAULTS)
    values = [each.default for each in parameters.values()][:-1]
    values[4:7], values[-1] = [7, 8, 9], True
    by_place = GLiClassModelConfig(*values)
    assert by_place.to_dict() == gliclass.GLiClassModelConfig(*values).to_dict()
    assert (by_place.example_token_index, by_place.use_embedding_projection) == (9, True)
    with pytest.raises(TypeError, match="57 arguments are given by position, but only 55 have one"):
        GLiClassModelConfig(*values, 1, 2)
    with pytest.raises(TypeError, match="class_token_index is given by position and by name"):
        GLiClassModelConfig(None, None, None, None, 7, class_token_index=7)


def test_what_the_engine_reads_has_the_defaults_of_the_whole_file() -> None:
    own = {each.name: each.default for each in fields(ModelConfig) if each.default is not MISSING}
    shared = own.keys() & STOCK_DEFAULTS.keys()
    assert len(shared) >= 20
    differ = {name: own[name] for name in shared if own[name] != STOCK_DEFAULTS[name]}
    assert differ == {"recurrent_inference_max_steps": 0}  # which means there what None does here


@pytest.mark.parametrize("kind", [None, *families.GLICLASS])
def test_calls_take_positions_and_give_the_fields_of_the_reference(kind: str | None) -> None:
    model = reference_model() if kind is None else families.reference(kind)
    ours = loaded(model)
    names = [name for name in inspect.signature(type(model.model).forward).parameters if name != "self"]
    assert list(ours.loaded.network.call_positions) == names[:-1]
    inputs: Any = dict(reference_pipeline(model).pipe.prepare_inputs(["hello", "x"], ["a", "b"], True))
    ask = {"output_text_embeddings": True, "return_dict": True}
    with torch.no_grad():
        expected, mine = (each(**inputs, **ask) for each in (model, ours))
    given = {**dict.fromkeys(names[:-1]), **inputs, **ask}
    by_place = ours(*(given[name] for name in names[:-1]))
    assert torch.equal(by_place.logits, mine.logits)
    left_out = {"recurrent_num_steps"} if kind == "decoder-kv" else set()
    assert set(expected) - left_out == set(mine)
    found = ours(**inputs, return_dict=False)
    assert isinstance(found, tuple) and [each.shape for each in found] == [mine.logits.shape]
    if kind in ("bi-encoder", "bi-encoder-fused", "decoder-kv"):
        with torch.no_grad():
            assert len(model(**inputs, return_dict=False)) == 1
    fields = [each.name for each in dataclasses.fields(expected)]
    assert [each.name for each in dataclasses.fields(GLiClassOutput)] == fields
    assert mine.recurrent_logits is None and mine.inverse_temperatures is None
    with pytest.raises(TypeError, match="arguments are given by position"):
        ours(*given.values(), None, None, None, None, None)
    with pytest.raises(TypeError, match="input_ids is given by position and by name"):
        ours(inputs["input_ids"], input_ids=inputs["input_ids"])


def test_a_calibrated_model_gives_no_tuple() -> None:
    model = reference_model(use_calibrator=True)
    inputs = reference_pipeline(model).pipe.prepare_inputs(["hello"], ["a", "b"], True)
    for each in (model, loaded(model)):
        with torch.no_grad():
            found = each(**inputs, return_dict=False)
        assert found.logits.shape == found.uncalibrated_logits.shape


@pytest.mark.parametrize("kind", [None, *families.GLICLASS])
def test_what_is_saved_loads_in_the_reference(kind: str | None, tmp_path: Path) -> None:
    model = reference_model(scorer_type="mlp") if kind is None else families.reference(kind)
    fast = fast_pipeline(model)
    fast.model.save_pretrained(tmp_path / "new")
    again = gliclass.GLiClassModel(gliclass.GLiClassModelConfig.from_pretrained(tmp_path / "new"))
    again.load_state_dict(load_file(tmp_path / "new" / "model.safetensors"), strict=True)
    expected = [reference_pipeline(again)(text, LABELS[2], threshold=0.0)[0] for text in TEXTS[:3]]
    assert_same_results(scores(fast), expected)
    ours = GLiClassModel.from_pretrained(tmp_path / "new", device="cpu")
    assert_same_results(scores(fast_pipeline(ours)), expected)


def test_tensors_are_loaded_strictly_or_not() -> None:
    reference, other = reference_model(scorer_type="mlp"), reference_model(scorer_type="mlp")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    ours = loaded(reference)
    pipeline = fast_pipeline(ours)
    before = scores(pipeline)
    tensors = other.state_dict()
    config = ours.config
    assert ours.load_state_dict(tensors) == ([], []) and ours.config is config
    expected = scores(reference_pipeline(other))
    assert_same_results(scores(pipeline), expected)
    tensors["model.logit_scale"].fill_(7)  # they were copied
    pipeline.refresh()
    assert_same_results(scores(pipeline), expected)

    half = {name: each for name, each in reference.state_dict().items() if "scorer" not in name}
    half["x"] = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"missing \['model\.scorer.*unexpected \['x'\]"):
        ours.load_state_dict(half)
    assert_same_results(scores(pipeline), expected)
    missing, unexpected = ours.load_state_dict(half, strict=False)
    assert unexpected == ["x"] and {name.split(".")[1] for name in missing} == {"scorer"}
    wrong = {**reference.state_dict(), "model.logit_scale": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"model\.logit_scale \[3\]"):
        ours.load_state_dict(wrong)
    ours.load_state_dict(reference.state_dict())
    assert_same_results(scores(pipeline), before)


@pytest.mark.parametrize(
    "options",
    [
        {
            "low_cpu_mem_usage": True,
            "trust_remote_code": True,
            "use_safetensors": True,
            "attn_implementation": "sdpa",
        },
        {
            "force_download": True,
            "proxies": {"http": "x"},
            "token": "t",
            "revision": "main",
            "cache_dir": "c",
        },
        {"device_map": "auto"},
        {"device_map": "cpu"},
        {"device_map": {"": "cpu"}},
        {"device_map": {"model.encoder_model": 0, "model.scorer": 0}, "device": "cpu"},
        {"subfolder": "demo"},
        {"quantization_config": None, "variant": None, "from_tf": False, "output_loading_info": False},
        {"gguf_file": None, "generation_config": None, "use_kernels": False, "adapter_name": "default"},
        {"device_mesh": None, "tp_size": None, "distributed_config": None, "experts_implementation": None},
        {"config": str(demo.PATH)},
    ],
)
def test_harmless_options_of_transformers_are_taken(options: dict[str, Any]) -> None:
    folder = demo.PATH.parent if "subfolder" in options else demo.PATH
    assert GLiClassModel.from_pretrained(folder, **options).device == torch.device("cpu")


def test_methods_of_modules_work_or_say_what_to_use() -> None:
    ours = loaded(reference_model())
    assert ours.requires_grad_(False) is ours
    for name in (
        "modules", "named_modules", "buffers", "get_input_embeddings", "resize_token_embeddings", "zero_grad",
        "register_forward_hook", "gradient_checkpointing_enable", "add_adapter", "model",
        "get_memory_footprint", "add_calibrator",
    ):  # fmt: skip
        with pytest.raises(AttributeError, match=r"parameters\(\) and state_dict\(\)"):
            getattr(ours, name)
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        ours.nonsense  # noqa: B018
    with pytest.raises(TypeError, match="a model needs weights: from_pretrained loads"):
        GLiClassModel(GLiClassModelConfig())
    with pytest.raises(ValueError, match="pickle"):
        ours.save_pretrained("anywhere", safe_serialization=False)
    with pytest.raises(TypeError, match="variant is not supported"):
        ours.save_pretrained("anywhere", variant="fp16", max_shard_size="5GB")
    with pytest.raises(NotImplementedError, match="upload_folder"):
        ours.save_pretrained("anywhere", push_to_hub=True)
    ours.save_pretrained("anywhere", is_main_process=False)
    assert not Path("anywhere").exists()
    with pytest.raises(TypeError, match="config must be a GLiClassModelConfig, got dict"):
        ours.config = {"prompt_first": False}
    with pytest.raises(ValueError, match="holds no text"):
        ours.forward(torch.zeros((0, 4), dtype=torch.long), max_num_classes=2)


@pytest.mark.parametrize(
    ("targets", "named", "dtype"),
    [
        (("cpu", torch.bfloat16, True), {}, torch.bfloat16),
        ((torch.zeros(1, dtype=torch.bfloat16),), {}, torch.bfloat16),
        ((torch.bfloat16,), {"copy": True, "memory_format": torch.channels_last}, torch.bfloat16),
        ((-1,), {}, torch.float32),
        ((None,), {}, torch.float32),
    ],
)
def test_a_model_moves_as_modules_of_torch_do(targets: Any, named: Any, dtype: torch.dtype) -> None:
    ours = loaded(reference_model())
    assert ours.to(*targets, **named) is ours and ours.dtype is dtype
    with pytest.raises(ValueError, match="float64 is not supported"):
        ours.double()
    assert ours.dtype is dtype
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"'cuda:1'.*no GPU"):
            ours.cuda(1)


@pytest.mark.parametrize("kind", ["encoder-decoder, umT5", "bi-encoder", None])
def test_tied_weights_count_once(kind: str | None, tmp_path: Path) -> None:
    reference = reference_model("t5") if kind is None else families.reference(kind)
    ours = loaded(reference)
    expected = dict(reference.named_parameters())
    assert dict(ours.named_parameters()).keys() == expected.keys()
    assert ours.num_parameters() == reference.num_parameters() == sum(map(torch.numel, expected.values()))
    every = {f"x.{name}" for name in ours.state_dict()}
    assert {name for name, _ in ours.named_parameters("x", remove_duplicate=False)} == every
    ours.save_pretrained(tmp_path, state_dict={name: each.detach() for name, each in expected.items()})
    assert_same_results(
        scores(fast_pipeline(GLiClassModel.from_pretrained(tmp_path))), scores(fast_pipeline(ours))
    )
    before = scores(fast_pipeline(ours))
    ours.save_pretrained(tmp_path, state_dict=reference.state_dict())  # whose tied weights share memory
    assert_same_results(scores(fast_pipeline(GLiClassModel.from_pretrained(tmp_path))), before)
    with pytest.raises(AttributeError, match="detach"):
        ours.save_pretrained(tmp_path / "half", state_dict={"x": 1})  # type: ignore[dict-item]
    assert not list((tmp_path / "half").iterdir())
    ours.save_pretrained(tmp_path, state_dict={})
    assert load_file(tmp_path / "model.safetensors") == {}

    wrapped = copy.deepcopy(reference)
    owner, name = backbone_of(wrapped)
    config = peft.LoraConfig(r=2, target_modules="all-linear")
    setattr(owner, name, peft.get_peft_model(getattr(owner, name), config))
    assert dict(loaded(wrapped).named_parameters()).keys() == expected.keys()
    doubled = {name: each.detach() * 2 for name, each in expected.items()}
    ours.load_state_dict(doubled, strict=False)
    assert dict(ours.named_parameters()).keys() == expected.keys()
    reference.load_state_dict(doubled, strict=False)
    theirs, found = reference.state_dict(), ours.state_dict()
    assert all(torch.equal(theirs[name], found[name]) for name in theirs)


def test_positions_that_are_angles_have_no_last_one() -> None:
    ours = loaded(reference_model("llama"))
    longest = ours.loaded.config.backbone_config.max_positions
    assert longest is not None
    label, sep = byte_tokenizer().convert_tokens_to_ids(["<<LABEL>>", "<<SEP>>"])
    ids = torch.tensor([[label, 9, sep, *[9, 11] * (longest // 2)]])
    assert ours(ids).logits[:, 0].isfinite().all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.ones(1, 2)}, TypeError, "labels is not supported.*losses"),
        ({"position_ids": torch.ones(1, 4)}, TypeError, "position_ids is not supported"),
        ({"input_ids": None, "inputs_embeds": torch.ones(1, 4, 8)}, TypeError, "inputs_embeds is not"),
        ({"input_ids": None}, TypeError, "input_ids is missing"),
        ({"attention_mask": torch.ones(1, 3)}, ValueError, r"attention_mask \[1, 3\] does not fit"),
        ({"attention_mask": torch.ones(1, 1, 1, 4)}, ValueError, "does not fit input_ids"),
        ({"input_ids": torch.full((1, 3000), 9)}, ValueError, r"\[0\] has 3000 tokens.*up to 2048"),
    ],
)
def test_calls_that_cannot_be_answered_say_why(change: Any, error: Any, message: str) -> None:
    ours = loaded(reference_model("bert"))
    label, sep = byte_tokenizer().convert_tokens_to_ids(["<<LABEL>>", "<<SEP>>"])
    ids = torch.tensor([[label, 9, sep, 9]])
    if (change_ids := change.get("input_ids")) is not None:
        change["input_ids"] = torch.cat((ids[:, :3], change_ids[:, 3:]), dim=1)
    with pytest.raises(error, match=message) as found:
        ours(**{"input_ids": ids, **change})
    assert isinstance(found.value, ArgumentError) or "tokens" in message
    assert ours(ids, labels=None, output_hidden_states=False, max_num_classes=1).logits.shape == (1, 1)


def test_names_of_a_checkpoint() -> None:
    given: Any = {"pretrained_model_name_or_path": demo.PATH}  # as transformers names it
    assert GLiClassModel.from_pretrained(**given, device="cpu").name_or_path == str(demo.PATH)
    with pytest.raises(TypeError, match="two names of one argument"):
        GLiClassModel.from_pretrained("elsewhere", **given)
    with pytest.raises(CheckpointError, match="the name of the checkpoint is empty"):
        GLiClassModel.from_pretrained("")
    for wrong in (None, 5):
        with pytest.raises(TypeError, match="named by a path or a repository id, not by"):
            GLiClassModel.from_pretrained(wrong)  # type: ignore[arg-type]


def test_dicts_of_tensors() -> None:
    model = loaded(reference_model())
    names = set(model.state_dict())
    assert model.load_state_dict({"epoch": 3, **model.state_dict()}, strict=False).unexpected_keys == [
        "epoch"
    ]
    assert set(model.state_dict(prefix="m.", keep_vars=True)) == {f"m.{name}" for name in names}
    given = {"x": torch.ones(1)}
    assert model.state_dict(destination=given) is given and set(given) == {"x", *names}
    for wrong, message in (
        (None, "must be a dict of tensors, got NoneType"),
        (dict.fromkeys(names, 1), r"\['.*'\] must be a tensor"),
        (dict.fromkeys(names, torch.ones(1).to_sparse()), r"\['.*'\] must be a dense tensor"),
        (dict.fromkeys(names, torch.ones(1, device="meta")), r"\['.*'\] must be a dense tensor"),
    ):
        with pytest.raises(TypeError, match=message):
            model.load_state_dict(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["encoder-decoder, BART", "encoder-decoder-cls, T5"])
def test_an_encoder_decoder_has_the_slots_of_its_configuration(kind: str) -> None:
    model = families.reference(kind)
    inputs = reference_pipeline(model).pipe.prepare_inputs(["hello", "x"], ["a", "b", "c"], True)
    for count in (None, 3, 10):
        with torch.no_grad():
            expected = model(**inputs, max_num_classes=count).logits
        found = loaded(model)(**inputs, max_num_classes=count).logits
        assert found.shape == expected.shape
        assert (found[:, :3] - expected[:, :3]).abs().max() < 1e-4


def test_options_of_the_configuration_are_replaced() -> None:
    changed = GLiClassModel.from_pretrained(demo.PATH, prompt_first=False, max_num_classes=3)
    assert changed.config.max_num_classes == 3 and not changed.loaded.config.prompt_first
    given = GLiClassModelConfig.from_pretrained(demo.PATH)
    given.normalize_features = True
    assert GLiClassModel.from_pretrained(demo.PATH, config=given).loaded.config.normalize_features


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": {"a": 0, "b": 1}}, "one device"),
        ({"use_safetensors": False}, "pickle"),
        ({"quantization_config": 1, "tp_plan": "auto"}, r"\['quantization_config', 'tp_plan'\]; supported"),
    ],
)
def test_other_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        GLiClassModel.from_pretrained(demo.PATH, **options)


def test_autocast_changes_nothing() -> None:
    model = reference_model()
    expected = scores(fast_pipeline(model))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = fast_pipeline(model, byte_tokenizer())
        assert scores(fast) == expected and torch.is_autocast_enabled("cpu")
