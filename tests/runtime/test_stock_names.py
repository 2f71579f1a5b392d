"""A model shows its tensors in its own dtype, and has the names by which transformers registers and asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gliclass
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from gliclass_fast import GLiClassModel, demo
from gliclass_fast.config import GLiClassModelConfig
from tests import families
from tests.accuracy import assert_same_results
from tests.runtime.test_live import scores
from tests.tiny import byte_tokenizer, fast_pipeline, loaded, reference_model, reference_pipeline

SIXTEEN = [torch.float16, torch.bfloat16]


def dtypes(model: Any) -> set[torch.dtype]:
    tensors = [*model.state_dict().values(), *model.parameters(), *dict(model.named_parameters()).values()]
    return {each.dtype for each in tensors if each.is_floating_point()}


@pytest.mark.parametrize("dtype", [torch.float32, *SIXTEEN])
def test_tensors_have_the_dtype_of_the_model(dtype: torch.dtype, tmp_path: Path) -> None:
    # `to`, as transformers leaves a backbone in the dtype that its own configuration names
    reference = gliclass.GLiClassModel.from_pretrained(demo.PATH, dtype=dtype).to(dtype)
    ours = GLiClassModel.from_pretrained(demo.PATH, dtype=dtype, device="cpu")
    assert dtypes(ours) == dtypes(reference) == {dtype}
    expected, found = reference.state_dict(), ours.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {each.dtype for each in found.values()} == {each.dtype for each in expected.values()}
    ours.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], expected[name]) for name in expected)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).partition(".")[2]
    assert gliclass.GLiClassModel.from_pretrained(tmp_path).dtype is dtype


def test_tensors_follow_the_model_to_another_dtype(tmp_path: Path) -> None:
    model = reference_model()
    ours = loaded(model)
    for dtype in SIXTEEN:
        assert dtypes(ours.to(dtype)) == {dtype}
        assert {each.device.type for each in ours.parameters()} == {"cpu"}
    ours.float()
    assert all(torch.equal(ours.state_dict()[name], each) for name, each in model.state_dict().items())
    ours.half().save_pretrained(tmp_path)
    before = scores(fast_pipeline(ours))
    again = GLiClassModel.from_pretrained(tmp_path, dtype=torch.float16, device="cpu")
    assert_same_results(scores(fast_pipeline(again, byte_tokenizer())), before)


@pytest.mark.parametrize("given", [torch.float64, torch.bfloat16])
def test_loaded_tensors_take_the_dtype_of_those_that_were_there(given: torch.dtype, tmp_path: Path) -> None:
    model = reference_model()
    model.save_pretrained(tmp_path)
    ours = GLiClassModel.from_pretrained(tmp_path, device="cpu")
    tensors = {name: 1.1 * each.to(given) for name, each in model.state_dict().items()}
    assert ours.load_state_dict(tensors) == ([], [])
    model.load_state_dict(tensors)
    assert dtypes(ours) == {torch.float32}
    ours.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], each) for name, each in model.state_dict().items())


@pytest.mark.parametrize("change", ["none", "half", "float", "float32"])
def test_a_saved_folder_names_one_dtype_and_scores_in_the_reference(change: str, tmp_path: Path) -> None:
    model = reference_model("bert").half()
    model.config.dtype = model.config.encoder_config.dtype = torch.float16
    model.save_pretrained(tmp_path / "stock")
    asked = {"dtype": torch.float32} if change == "float32" else {}
    ours = GLiClassModel.from_pretrained(tmp_path / "stock", device="cpu", **asked)
    if change in ("half", "float"):  # "float" on a CPU is the dtype that it computes in before
        getattr(ours, change)()
    ours.save_pretrained(tmp_path / "saved")
    again = gliclass.GLiClassModel.from_pretrained(tmp_path / "saved")
    assert dtypes(again) == {torch.float32 if change.startswith("float") else torch.float16}
    found = scores(reference_pipeline(again.float()))
    assert_same_results(found, scores(fast_pipeline(again.float())))


def test_transformers_loads_our_model_once_it_is_registered() -> None:
    kinds = GLiClassModelConfig, GLiClassModel
    AutoConfig.register("GLiClass", kinds[0], exist_ok=True)
    AutoModel.register(*kinds, exist_ok=True)
    try:
        AutoModel.from_pretrained(demo.PATH)
        AutoModel.from_pretrained(demo.PATH, config=GLiClassModelConfig.from_pretrained(demo.PATH))
        found = AutoModel.from_pretrained(demo.PATH, revision="main")
        assert type(found) is GLiClassModel
        with pytest.raises(TypeError, match="a model needs weights: from_pretrained"):
            AutoModel.from_config(found.config)
    finally:
        CONFIG_MAPPING._extra_content.pop("GLiClass", None)
        MODEL_MAPPING._extra_content.pop(kinds[0], None)


def test_names_of_the_class_are_those_of_the_reference() -> None:
    for name in ("base_model_prefix", "main_input_name"):
        assert getattr(GLiClassModel, name) == getattr(gliclass.GLiClassModel, name)
    assert GLiClassModel.config_class is GLiClassModelConfig
    assert not GLiClassModel.can_generate() and not gliclass.GLiClassModel.can_generate()


def test_empty_options_are_defaults() -> None:
    empty: dict[str, Any] = {
        "adapter_kwargs": {}, "key_mapping": {}, "max_memory": {}, "device_map": {}, "proxies": {},
        "quantization_config": {}, "config": {},
    }  # fmt: skip
    model = GLiClassModel.from_pretrained(demo.PATH, **empty)
    assert model.config.to_dict() == GLiClassModel.from_pretrained(demo.PATH).config.to_dict()
    with pytest.raises(TypeError, match=r"\['adapter_kwargs'\]; supported"):
        GLiClassModel.from_pretrained(demo.PATH, adapter_kwargs={"revision": "x"})


def test_what_cannot_work_says_what_to_use() -> None:
    ours = loaded(reference_model())
    for name in ("gradient_checkpointing_disable", "enable_input_require_grads", "set_attn_implementation"):
        with pytest.raises(AttributeError, match=r"parameters\(\) and state_dict\(\)"):
            getattr(ours, name)
    with pytest.raises(TypeError, match=r"exclude_embeddings=True is not supported.*no torch module"):
        ours.num_parameters(exclude_embeddings=True)
    with pytest.raises(TypeError, match="a model needs weights: from_pretrained"):
        GLiClassModel._from_config(GLiClassModelConfig())


@pytest.mark.parametrize("kind", ["encoder-decoder, BART", "encoder-decoder-cls, T5"])
def test_a_file_may_leave_out_tied_names(kind: str, tmp_path: Path) -> None:
    model = families.reference(kind)
    model.save_pretrained(tmp_path)
    ours = GLiClassModel.from_pretrained(tmp_path, device="cpu")
    stock, stored = model.state_dict(), load_file(tmp_path / "model.safetensors")
    assert len(stored) < len(stock) and list(ours.state_dict()) != list(stored)
    assert all(torch.equal(ours.state_dict()[name], each) for name, each in stock.items())
    assert ours.num_parameters() == model.num_parameters()
    live = loaded(model)
    for given in (stock, stored, ours.state_dict()):
        assert ours.load_state_dict(given) == live.load_state_dict(given) == ([], [])
    ours.save_pretrained(tmp_path / "again")
    again = GLiClassModel.from_pretrained(tmp_path / "again", device="cpu")
    assert again.state_dict().keys() == stock.keys() and again.num_parameters() == model.num_parameters()
    stock = {name: each.clone() for name, each in stock.items()}
    tied = [name for name in stock if name.endswith(("shared.weight", "embed_tokens.weight"))]
    for number, name in enumerate(tied):
        stock[name] += 1 + number
    model.load_state_dict(stock)
    for each in (live, again, again):
        each.load_state_dict(stock)
        assert all(torch.equal(each.state_dict()[name], model.state_dict()[name]) for name in tied)
    without = {name: each for name, each in stock.items() if name not in tied}
    with pytest.raises(RuntimeError, match=r"missing \['.*shared\.weight"):
        again.load_state_dict(without)
    one = again.load_state_dict({tied[-1]: stock[tied[0]]}, strict=False)
    assert tied[-1] not in one.unexpected_keys
    assert all(torch.equal(again.state_dict()[name], stock[tied[0]]) for name in tied)


@pytest.mark.parametrize("kind", ["encoder-decoder, BART", "encoder-decoder-cls, T5"])
def test_words_of_a_decoder_that_a_file_leaves_out_may_become_its_own(kind: str, tmp_path: Path) -> None:
    """The reference ties them to nothing when it loads such a file, so that training parts the two tables."""
    model = families.reference(kind)
    model.save_pretrained(tmp_path)
    ours, reloaded = (each.from_pretrained(tmp_path) for each in (GLiClassModel, gliclass.GLiClassModel))
    network = ours.loaded.network
    if kind.endswith("T5"):  # those of this BART are scaled
        assert network.decoder.word_embeddings.weight is network.encoder.word_embeddings.weight
    parameters = ours.num_parameters()
    assert ours.load_state_dict(reloaded.state_dict()) == ([], [])
    ours.save_pretrained(tmp_path / "again")
    again = GLiClassModel.from_pretrained(tmp_path / "again")
    for each in (ours, again, loaded(reloaded)):
        assert_same_results(scores(fast_pipeline(each)), scores(reference_pipeline(reloaded)))
        words = each.state_dict()["model.encoder_decoder_model.decoder.embed_tokens.weight"]
        assert torch.equal(words, reloaded.model.encoder_decoder_model.decoder.embed_tokens.weight)
        assert each.num_parameters() == parameters + words.numel() == reloaded.num_parameters()
    assert ours.load_state_dict(model.state_dict()) == ([], [])
    assert ours.num_parameters() == parameters
    assert_same_results(scores(fast_pipeline(ours)), scores(reference_pipeline(model)))
