"""LoRA adapters in both layouts that PEFT leaves behind give what weights merged by hand give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from gliclass_fast import CheckpointError, GLiClassModel
from gliclass_fast.checkpoint.lora import MergedLora, open_checkpoint
from gliclass_fast.checkpoint.tensors import SafetensorsFolder
from tests.adapters import TEXTS, adapted, logits
from tests.parity import assert_parity, reference_logits
from tests.tiny import fast_pipeline, reference_model

ENCODER = "model.encoder_model."
QUERY, VALUE = "encoder.layer.0.attention.self.query", "encoder.layer.1.attention.self.value"
UP, DOWN = "encoder.layer.1.intermediate.dense", "encoder.layer.1.output.dense"
MODULES = (QUERY, VALUE, UP, DOWN)
PLAIN = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 10, "bias": "none", "use_rslora": False, "use_dora": False,
    "fan_in_fan_out": False, "modules_to_save": None, "init_lora_weights": True, "lora_bias": False,
    "rank_pattern": {}, "alpha_pattern": {}, "target_modules": ["query", "value", "dense"],
}  # fmt: skip
Pairs = dict[str, tuple[Tensor, Tensor]]


def pairs_for(weights: Mapping[str, Tensor], prefix: str = ENCODER, rank: int = 4, **ranks: int) -> Pairs:
    """Makes A and B of the modules, with products as large as the weights themselves."""
    shapes = {module: weights[f"{prefix}{module}.weight"].shape for module in MODULES}
    return {
        module: (0.3 * torch.randn(ranks.get(module, rank), width), torch.randn(out, ranks.get(module, rank)))
        for module, (out, width) in shapes.items()
    }


def write(folder: Path, layout: str, pairs: Pairs, **options: Any) -> None:
    """Writes an adapter for the model in `folder`."""
    (folder / "adapter").mkdir(exist_ok=True)
    place = folder / "adapter" if layout == "subfolder" else folder
    (place / "adapter_config.json").write_text(json.dumps(PLAIN | options))
    names = {f"{module}.lora_{side}": pair[side == "B"] for module, pair in pairs.items() for side in "AB"}
    if layout != "wrapped":
        whole = ENCODER if layout == "whole model" else ""
        tensors = {f"base_model.model.{whole}{name}.weight": each for name, each in names.items()}
        return save_file(tensors, place / "adapter_model.safetensors")
    tensors = {f"{ENCODER}base_model.model.{name}.default.weight": each for name, each in names.items()}
    for name, tensor in load_file(folder / "model.safetensors").items():
        module, _, kind = name.removeprefix(ENCODER).rpartition(".")
        inner = f"{module}.base_layer.{kind}" if module in pairs else f"{module}.{kind}"
        tensors[f"{ENCODER}base_model.model.{inner}" if name.startswith(ENCODER) else name] = tensor
    return save_file(tensors, folder / "model.safetensors")


def check(folder: Path, layout: str, pairs: Pairs, scaling: dict[str, float], **options: Any) -> None:
    """The adapted checkpoint gives the logits of a reference whose weights are merged by hand."""
    write(folder, layout, pairs, **options)
    reference = reference_model("bert", scorer_type="mlp")
    before = reference_logits(reference)
    with torch.no_grad():
        for module, (a, b) in pairs.items():
            reference.model.encoder_model.get_submodule(module).weight += scaling[module] * (b @ a)
    assert np.abs(np.concatenate(before) - np.concatenate(reference_logits(reference))).max() > 0.1
    assert_parity(reference, ours=GLiClassModel.from_pretrained(folder, device="cpu"))


@pytest.mark.parametrize("layout", ["wrapped", "encoder", "whole model", "subfolder"])
def test_layouts(folder: Path, layout: str) -> None:
    check(folder, layout, pairs_for(SafetensorsFolder(folder)), dict.fromkeys(MODULES, 10 / 4))


@pytest.mark.parametrize("layout", ["wrapped", "encoder"])
def test_rank_stabilized(folder: Path, layout: str) -> None:
    pairs = pairs_for(SafetensorsFolder(folder))
    check(folder, layout, pairs, dict.fromkeys(MODULES, 10 / sqrt(4)), use_rslora=True)


@pytest.mark.parametrize("layout", ["wrapped", "encoder", "subfolder"])
def test_patterns(folder: Path, layout: str) -> None:
    """A pattern is a regular expression for a name or its last parts; the first that fits counts."""
    pairs = pairs_for(SafetensorsFolder(folder), **{VALUE: 2, DOWN: 3})
    scaling = {QUERY: 7 / 4, VALUE: 7 / 2, UP: 10 / 4, DOWN: 5 / 3}
    patterns = {
        "rank_pattern": {"self.value": 2, "ayer.1.intermediate.dense": 9, r"layer\.\d+\.output\.dense": 3},
        "alpha_pattern": {r"self\.(query|value)": 7, QUERY: 100, r".*\.\d+\.(?:in|out)put\.dense?": 5},
    }
    check(folder, layout, pairs, scaling, **patterns)


@pytest.mark.parametrize("layout", ["wrapped", "encoder"])
def test_sixteen_bit_weights_are_merged_in_float32(folder: Path, layout: str) -> None:
    stored = {name: each.bfloat16() for name, each in load_file(folder / "model.safetensors").items()}
    save_file(stored, folder / "model.safetensors")
    pairs = {module: (a.bfloat16(), b.bfloat16()) for module, (a, b) in pairs_for(stored).items()}
    write(folder, layout, pairs)
    merged = open_checkpoint(folder)
    assert set(merged) == set(stored) and len(merged) == len(stored)
    for name, weight in stored.items():
        module = name.removeprefix(ENCODER).removesuffix(".weight")
        if module in pairs:
            a, b = pairs[module]
            weight = (weight.float() + 2.5 * (b.float() @ a.float())).bfloat16()
        assert torch.equal(merged[name], weight)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True")
@pytest.mark.parametrize(
    "options",
    [
        {"fan_in_fan_out": True},  # PEFT follows it for Conv1D alone, which no backbone has
        {"use_rslora": True, "r": 5, "lora_alpha": 2.5},
        {"rank_pattern": {"query": 2, r"1\.output\.dense": 7}, "alpha_pattern": {"dense": 3, "key": 9}},
        {"target_modules": r".*\.(key|value)", "exclude_modules": r".*layer\.1.*"},
        {"target_modules": ["query", "dense"], "layers_to_transform": [1], "layers_pattern": "layer"},
        {"lora_dropout": 0.5, "inference_mode": True, "bias": "none"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_mean_what_they_mean_to_peft(folder: Path, options: dict[str, Any]) -> None:
    """A checkpoint with the adapter, the adapter of a text, and PEFT's merge have the same logits."""
    model = reference_model("bert", scorer_type="mlp")
    adapted(model, folder / "adapter", 1, **options)
    file = folder / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))  # PEFT changes some when it saves
    plain, merged = fast_pipeline(model), GLiClassModel.from_pretrained(folder, device="cpu")
    plain.load_adapter("a", folder)
    before, found = logits(plain, TEXTS[:1]), logits(plain, TEXTS[:1], adapter_ids="a")
    backbone = model.model.encoder_model
    model.model.encoder_model = PeftModel.from_pretrained(backbone, file.parent).merge_and_unload()
    expected = logits(fast_pipeline(model), TEXTS[:1])
    for mine, other in ((found, expected), (logits(fast_pipeline(merged), TEXTS[:1]), expected)):
        np.testing.assert_allclose(mine, other, atol=1e-5, rtol=1e-5)
    assert np.abs(np.subtract(before, expected)).max() > 0.01


class Counted(Mapping[str, Tensor]):
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self.read = tensors, list[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.read.append(name)
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_only_what_is_asked_for_is_read() -> None:
    names = [f"base_model.model.{module}.lora_{side}.weight" for module in "xy" for side in "AB"]
    tensors = Counted({f"{module}.weight": torch.randn(4, 4) for module in "xyz"})
    adapter = Counted({name: torch.randn(4, 4) for name in names})
    merged = MergedLora(tensors, adapter, names, PLAIN, Path("x"))
    assert "x.weight" in merged and "w.weight" not in merged and list(merged) == list(tensors)
    assert not tensors.read and not adapter.read
    assert merged["z.weight"] is tensors.tensors["z.weight"] and not adapter.read
    assert merged["x.weight"].shape == (4, 4) and adapter.read == names[:2]
    with pytest.raises(KeyError):
        merged["w.weight"]


@pytest.mark.parametrize("layout", ["wrapped", "encoder", "subfolder"])
def test_merged_tensors_are_not_saved_beside_their_adapter(folder: Path, layout: str) -> None:
    """To load the folder would merge it again."""
    write(folder, layout, pairs_for(SafetensorsFolder(folder)))
    files = {file: file.read_bytes() for file in folder.rglob("*.*")}
    ours = GLiClassModel.from_pretrained(folder, device="cpu")
    with pytest.raises(ValueError, match=f"^{folder}.* describes an adapter.*: give a folder without one"):
        ours.save_pretrained(folder)
    assert {file: file.read_bytes() for file in folder.rglob("*.*")} == files
    ours.save_pretrained(folder / "merged")
    again = GLiClassModel.from_pretrained(folder / "merged", device="cpu")
    assert all(torch.equal(again.state_dict()[name], each) for name, each in ours.state_dict().items())


def test_a_folder_without_an_adapter_is_read_as_it_is(folder: Path) -> None:
    assert type(open_checkpoint(folder)) is SafetensorsFolder


@pytest.mark.parametrize("layout", ["wrapped", "encoder"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("peft_type", "LOHA", "peft_type='LOHA' is not supported; supported: 'LORA'"),
        ("use_dora", True, "use_dora=True is not supported; supported: false"),
        ("bias", "lora_only", "bias='lora_only' is not supported; supported: 'none'"),
        ("lora_bias", True, "lora_bias=True"),
        ("kasa_config", {"beta": 1e-4}, "kasa_config="),
        ("layer_replication", [[0, 2], [1, 2]], "layer_replication="),
        ("r", 5, r"lora_A.* \[4, \d+\] and .*lora_B.* \[\d+, 4\] do not fit rank 5 and model\.encoder"),
    ],
)
def test_options_that_are_refused(folder: Path, layout: str, option: str, value: Any, message: str) -> None:
    write(folder, layout, pairs_for(SafetensorsFolder(folder)), **{option: value})
    with pytest.raises(CheckpointError, match=message):
        GLiClassModel.from_pretrained(folder, device="cpu")


def test_a_start_that_changed_the_base_weights(folder: Path) -> None:
    """An adapter that is saved within its model has the right base weights, one beside its model does not."""
    pairs = pairs_for(SafetensorsFolder(folder))
    write(folder, "encoder", pairs, init_lora_weights="pissa_niter_4")
    with pytest.raises(CheckpointError, match="init_lora_weights='pissa_niter_4' is not supported"):
        open_checkpoint(folder)
    check(folder, "wrapped", pairs, dict.fromkeys(MODULES, 10 / 4), init_lora_weights="pissa_niter_4")


def test_starts_in_every_spelling_of_peft(folder: Path) -> None:
    """PEFT looks at some names without regard to case; what starts beside the base weights is plain LoRA."""
    pairs = pairs_for(SafetensorsFolder(folder))
    for start in ("pissa", "corda", "olora", "OLoRA", "OLORA", "loftq", "lora_ga"):
        write(folder, "encoder", pairs, init_lora_weights=start)
        with pytest.raises(CheckpointError, match=f"init_lora_weights='{start}' is not supported"):
            open_checkpoint(folder)
    for fine in (True, False, "gaussian", "Gaussian", "eva", "orthogonal", "mica", "MiCA"):
        write(folder, "encoder", pairs, init_lora_weights=fine)
        assert len(open_checkpoint(folder)) > 0


@pytest.mark.parametrize("layout", ["wrapped", "encoder"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embeddings.word_embeddings.lora_embedding_A", "lora_embedding_A.* is not supported"),
        (f"{QUERY}.lora_magnitude_vector", "lora_magnitude_vector.* is not supported"),
        (f"{QUERY}.lora_B.bias", r"lora_B\.bias is not supported"),
        ("pooler.dense.modules_to_save.default.weight", "modules_to_save.* is not supported"),
        ("encoder.layer.7.output.dense.lora_A.weight", "layer.7.*lora_A.weight matches no weight"),
        ("encoder.layer.0.output.dense.lora_A.weight", "for model.*layer.0.output.* there is only .*lora_A"),
    ],
)
def test_tensors_that_are_refused(folder: Path, layout: str, name: str, message: str) -> None:
    write(folder, layout, pairs_for(SafetensorsFolder(folder)))
    file = folder / ("model.safetensors" if layout == "wrapped" else "adapter_model.safetensors")
    prefix = f"{ENCODER if layout == 'wrapped' else ''}base_model.model."
    save_file({**load_file(file), f"{prefix}{name}": torch.zeros(4, 32)}, file)
    with pytest.raises(CheckpointError, match=message):
        GLiClassModel.from_pretrained(folder, device="cpu")


def test_files_that_are_missing_or_damaged(folder: Path) -> None:
    write(folder, "subfolder", pairs_for(SafetensorsFolder(folder)))
    config, tensors = (
        folder / "adapter" / f"adapter_{name}" for name in ("config.json", "model.safetensors")
    )
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is truncated"):
        open_checkpoint(folder)
    save_file({}, tensors)
    with pytest.raises(CheckpointError, match="holds no lora_A and lora_B tensors"):
        open_checkpoint(folder)
    tensors.unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors does not exist"):
        open_checkpoint(folder)
    for content, message in (("{", "is not valid JSON"), ("[]", "holds a list, not an object")):
        config.write_text(content)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(folder)


def test_a_wrapped_model_without_its_config(folder: Path) -> None:
    write(folder, "wrapped", pairs_for(SafetensorsFolder(folder)))
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"wrapped by PEFT, but adapter_config\.json does not exist"):
        open_checkpoint(folder)
