"""Checkpoints that are missing, damaged, mismatched or pickled raise errors that name file or tensors."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import gliclass
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from gliclass_fast import CheckpointError, GLiClassModel, UnsupportedConfigError, demo
from gliclass_fast.checkpoint.files import load_tokenizer, resolve_folder
from tests.accuracy import assert_same_logits
from tests.tiny import fast_pipeline, reference_model


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in change.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


def test_a_stock_folder_loads(folder: Path) -> None:
    found = fast_pipeline(GLiClassModel.from_pretrained(folder)).get_embeddings("x", ["a", "b"])
    expected = fast_pipeline(reference_model("bert", scorer_type="mlp")).get_embeddings("x", ["a", "b"])
    assert_same_logits(found[0]["logits"], expected[0]["logits"])


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_given_tensors_may_have_any_strides(quantization: str | None) -> None:
    stock = reference_model("modernbert", scorer_type="mlp")
    spread = {name: torch.stack((each, each), -1)[..., 0] for name, each in stock.state_dict().items()}
    settings: dict[str, Any] = {"device": "cpu", "quantization": quantization}
    models = [
        GLiClassModel(stock.config.to_dict(), lambda tensors=tensors: tensors, **settings)
        for tensors in (spread, stock.state_dict())
    ]
    found, expected = (fast_pipeline(each).get_embeddings("x", ["a"])[0]["logits"] for each in models)
    assert (found == expected).all()


def test_shards_load(folder: Path) -> None:
    expected = fast_pipeline(GLiClassModel.from_pretrained(folder)).get_embeddings("x", ["a", "b"])
    reference_model("bert", scorer_type="mlp").save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    found = fast_pipeline(GLiClassModel.from_pretrained(folder)).get_embeddings("x", ["a", "b"])
    assert_same_logits(found[0]["logits"], expected[0]["logits"])
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match=r"model-00002.* does not exist"):
        GLiClassModel.from_pretrained(folder)


def test_missing_and_unused_tensors_are_both_listed(folder: Path) -> None:
    rewrite(folder, {"model.scorer.mlp.0.weight": None, "model.extra.weight": torch.zeros(2)})
    with pytest.raises(
        CheckpointError, match=r"Missing.*model\.scorer\.mlp\.0\.weight.*model\.extra\.weight"
    ):
        GLiClassModel.from_pretrained(folder)


def test_a_wrong_shape_names_the_tensor(folder: Path) -> None:
    rewrite(folder, {"model.scorer.mlp.0.weight": torch.zeros(256, 3)})
    with pytest.raises(CheckpointError, match=r"model\.scorer\.mlp\.0\.weight \[256, 3\]"):
        GLiClassModel.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["query.weight", "query.bias", "intermediate.dense.weight"])
def test_tensors_that_are_no_weights(folder: Path, kind: str) -> None:
    """One of several that are put together is named like one alone, whatever is wrong with it."""
    rest = load_file(folder / "model.safetensors")
    name = next(each for each in rest if each.endswith(kind))
    whole = rest[name]
    for tensor in (whole[None], whole.view(-1)[0], whole.view(-1)[:-1], whole[:-1], whole[:0]):
        rewrite(folder, {name: tensor.clone()})
        with pytest.raises(CheckpointError, match=rf"{name} \[.*does not fit the configuration"):
            GLiClassModel.from_pretrained(folder)
    # older safetensors write no complex numbers
    wrong = [torch.int64, torch.bool, *({torch.complex64} & set(safetensors.torch._SIZE))]
    for dtype in wrong:
        rewrite(folder, {name: whole.to(dtype)})
        with pytest.raises(CheckpointError, match=f"{name} holds {dtype}"):
            GLiClassModel.from_pretrained(folder)
    for dtype in (torch.float8_e4m3fn, torch.float64):
        rewrite(folder, {name: whole.to(dtype)})
        GLiClassModel.from_pretrained(folder)
    rewrite(folder, {name: torch.full_like(whole, torch.nan).to(torch.float8_e5m2)})
    with pytest.raises(CheckpointError, match=f"{name}' holds NaN"):
        GLiClassModel.from_pretrained(folder)


def test_rows_that_lie_in_another_tensor(folder: Path) -> None:
    """Queries, keys and values that only together have the right number of rows are refused."""
    query = "model.encoder_model.encoder.layer.0.attention.self.query.weight"
    key = query.replace("query", "key")
    rewrite(folder, {query: torch.zeros(40, 32), key: torch.zeros(24, 32)})
    with pytest.raises(CheckpointError, match=rf"{query} \[40, 32\], {key} \[24, 32\].*does not fit"):
        GLiClassModel.from_pretrained(folder)


def test_only_named_tensors_of_the_backbone_may_go_unused(folder: Path) -> None:
    rewrite(folder, {"model.encoder_model.embeddings.position_ids": torch.zeros(1, 4)})
    GLiClassModel.from_pretrained(folder)
    rewrite(folder, {"model.encoder_model.embeddings.surprise": torch.zeros(1, 4)})
    with pytest.raises(CheckpointError, match="surprise"):
        GLiClassModel.from_pretrained(folder)


def test_a_truncated_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or not a safetensors file"):
        GLiClassModel.from_pretrained(folder)


def test_a_git_lfs_pointer_is_called_one(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1000\n"
    demo_copy(folder)
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_text(pointer)
        with pytest.raises(CheckpointError, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
            load_tokenizer(folder) if name == "tokenizer.json" else GLiClassModel.from_pretrained(folder)


def test_a_broken_tokenizer_is_named(folder: Path) -> None:
    demo_copy(folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": ')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json holds no tokenizer that can be loaded"):
        load_tokenizer(folder)


def test_a_tokenizer_with_more_ids_than_the_model(folder: Path) -> None:
    demo_copy(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = json.loads((folder / "config.json").read_text())["encoder_config"]["vocab_size"]
    assert load_tokenizer(folder).backend_tokenizer.get_vocab_size() <= size
    tokenizer.add_tokens([f"xx{number}" for number in range(size)])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=rf"ids go up to \d+, but vocab_size is {size} in config"):
        load_tokenizer(folder)


def demo_copy(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo.PATH / name, folder)


def test_a_pickle_is_refused_with_the_way_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"pytorch_model\.bin is a pickle file.*safetensors\.torch\.save_file"
    ):
        GLiClassModel.from_pretrained(folder)


def test_missing_files(tmp_path: Path) -> None:
    for given, message in (
        (tmp_path, r"config\.json does not exist"),
        (tmp_path / "nowhere", "does not exist, and .* is not a repository id"),
    ):
        with pytest.raises(CheckpointError, match=message) as found:
            GLiClassModel.from_pretrained(given)
        assert isinstance(found.value, OSError)  # as in the reference
        copy = pickle.loads(pickle.dumps(found.value))
        assert (type(copy), str(copy)) == (type(found.value), str(found.value))
        with pytest.raises(OSError, match=r"."):
            gliclass.GLiClassModel.from_pretrained(given)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        GLiClassModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        GLiClassModel.from_pretrained(tmp_path / "config.json")


@pytest.mark.parametrize("name", ["~run", "./~run", "~root", "./~root", "~/run"])
def test_a_tilde_is_a_home_where_it_begins_no_name(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder / name
    place.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder / "~"))  # where there is no "~" in the current folder
    monkeypatch.chdir(folder.parent if name == "~/run" else folder)
    for given in (name, Path(name)):
        assert resolve_folder(given) == place


def test_damaged_indexes_and_configs(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for content in ("{}", "{", "[]", '{"weight_map": 3}'):
        (folder / "model.safetensors.index.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"index\.json is not an index of shards"):
            GLiClassModel.from_pretrained(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list, not an object"):
        GLiClassModel.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"download of that repository failed.*how it is spelled"):
        GLiClassModel.from_pretrained("not a/valid id")


def test_a_config_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not exist"):
        GLiClassModel.from_pretrained(folder)


def test_other_peoples_checkpoints_are_recognised(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 32}))
    with pytest.raises(UnsupportedConfigError, match="not a GLiClass checkpoint"):
        GLiClassModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["nobody/nothing-of-this-name", "nothing-of-this-name"])
def test_repositories_that_cannot_be_reached(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = f"no folder named '{name}', and the download of that repository failed"
    with pytest.raises(CheckpointError, match=message) as found:
        GLiClassModel.from_pretrained(name)
    assert isinstance(found.value, OSError)


def test_a_repository_may_have_no_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As "bert-base-uncased", which label towers name; a folder of that name comes first."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: f"/cache/{name}")
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("a-name") == Path("/cache/a-name")
    (tmp_path / "a-name").mkdir()
    assert resolve_folder("a-name") == tmp_path / "a-name"


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("dtype", "int4", "supported: float32, float16, bfloat16"),
        ("dtype", torch.int8, "supported: float32"),
        ("device", "meta", "supported: cuda, cpu"),
        ("backend", "cudnn", "backend 'cudnn' does not exist; choose one of: reference, onednn, int8"),
    ],
)
def test_wrong_arguments(folder: Path, argument: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GLiClassModel.from_pretrained(folder, **{"device": "cpu", argument: value})


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_sixteen_bit_models_run_and_convert_back(folder: Path, name: str) -> None:
    exact = fast_pipeline(GLiClassModel.from_pretrained(folder)).get_embeddings("x", ["a", "b"])[0]["logits"]
    model = GLiClassModel.from_pretrained(folder, dtype=name)
    low = fast_pipeline(model).get_embeddings("x", ["a", "b"])[0]["logits"]
    assert 0 < abs(low - exact).max() < 0.1 * abs(exact).max()
    assert model.to("cpu", dtype=torch.float16).dtype is model.to(device="cpu").dtype is torch.float16
    assert (model.half().dtype, model.bfloat16().dtype) == (torch.float16, torch.bfloat16)
    back = fast_pipeline(model.float().cpu().eval()).get_embeddings("x", ["a", "b"])[0]["logits"]
    assert_same_logits(back, exact)


def test_options_of_the_hub_and_a_missing_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = GLiClassModel.from_pretrained(folder, torch_dtype="bfloat16", device="cpu", revision="main")
    assert loaded.dtype is torch.bfloat16
    with pytest.raises(TypeError, match=r"\['attn'\]; supported: revision"):
        GLiClassModel.from_pretrained(folder, device="cpu", attn="eager")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no GPU"):
        loaded.to("cuda")
