"""Absurd and hostile checkpoints: one line that names file and field, before memory or time is taken."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gliclass_fast import GLiClassModel
from gliclass_fast.checkpoint.documents import MOST_JSON_BYTES
from gliclass_fast.checkpoint.files import load_tokenizer
from tests.refusal import MOST_MEGABYTES, peak_megabytes, refused
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model

TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
QUERY = "base_model.model.encoder.layer.0.attention.self.query.lora_"
Change = Callable[[Path], Any]


def load(folder: Path) -> GLiClassModel:
    return GLiClassModel.from_pretrained(folder, device="cpu")


def edited(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def safetensors(header: Any, data: int = 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * data


def twice(other: dict[str, Any]) -> bytes:
    return b'{"a": %s, "a": %s}' % (json.dumps(TENSOR).encode(), json.dumps(other).encode())


HEADERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "a header of 0 bytes|not valid JSON"),
    "longer than the file": (safetensors({"a": TENSOR}, length=10**12), "a header of 1000000000000 bytes"),
    "the longest length": (safetensors({"a": TENSOR}, length=2**64 - 1), "truncated or not a safetensors"),
    "overlap": (
        safetensors({"a": TENSOR, "b": {**TENSOR, "data_offsets": [4, 12]}}, 12),
        "data_offsets of 'b' start at 4",
    ),
    "gap": (safetensors({"a": {**TENSOR, "data_offsets": [8, 16]}}, 16), "data_offsets of 'a' start at 8"),
    "negative": (
        safetensors({"a": {**TENSOR, "data_offsets": [-8, 0]}}),
        "data_offsets of 'a' is not a list",
    ),
    "backwards": (safetensors({"a": {**TENSOR, "data_offsets": [8, 0]}}), "data_offsets of 'a' are"),
    "one offset": (safetensors({"a": {**TENSOR, "data_offsets": [8]}}), "data_offsets of 'a' are"),
    "offsets of text": (safetensors({"a": {**TENSOR, "data_offsets": "08"}}), "data_offsets of 'a' is not"),
    "another dtype": (safetensors({"a": {**TENSOR, "dtype": "F64"}}), r"shape \[2\] of 'a' in dtype F64"),
    "no dtype": (safetensors({"a": {"shape": [2]}}), "dtype of 'a' is None"),
    "absurd shape": (safetensors({"a": {**TENSOR, "shape": [2**63, 2**63]}}), "shape .* of 'a'"),
    "negative shape": (safetensors({"a": {**TENSOR, "shape": [-2, -1]}}), "shape of 'a' is not a list"),
    "no object": (safetensors({"a": 5}), "dtype of 'a'"),
    "a list": (safetensors([1]), "holds a list"),
    "no text": (safetensors(b"{\xff}"), "not valid JSON"),
    "deep": (safetensors(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"), "not valid JSON|nested"),
    "the same twice": (safetensors(twice(TENSOR)), "an object has the name 'a' twice"),
    "twice": (
        safetensors(twice({**TENSOR, "data_offsets": [8, 16]}), 16),
        "an object has the name 'a' twice",
    ),
    "a long name": (safetensors({"a" * 1000: TENSOR}), "has 1000 characters"),
    "a name of two lines": (safetensors({"a\nb": TENSOR}), r"the name 'a\\nb' has characters"),
    "left over": (safetensors({"a": TENSOR}, 80), "describes 8 bytes of tensors, and 80 are there"),
    "a zip": (b"PK\3\4" + b"\0" * 100, "truncated or not a safetensors file"),
    "many nothings": (
        safetensors(
            {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(10**5)}, 0
        ),
        "its header has .* bytes, and at most 2097152 are read",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(folder: Path, name: str) -> None:
    content, message = HEADERS[name]
    (folder / "model.safetensors").write_bytes(content)
    refused(lambda: load(folder), rf"model\.safetensors.*({message})")


def sparse(folder: Path, name: str, size: int, start: bytes = b"{") -> None:
    with (folder / name).open("wb") as opened:
        opened.write(start)
        opened.truncate(size)


@pytest.mark.long
def test_the_longest_header_that_is_read_takes_little_memory(folder: Path) -> None:
    text = b'{"a":[' + b"[],{}," * ((MOST_JSON_BYTES - 20) // 6) + b"0]}"
    (folder / "model.safetensors").write_bytes(safetensors(text))
    refused(lambda: load(folder), "dtype of 'a'")
    (folder / "config.json").write_bytes(text)
    refused(lambda: load(folder), "no 'encoder_config'")


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("model.safetensors", struct.pack("<Q", 500 << 20) + b"{"),
        ("model.safetensors.index.json", b"{"),
        ("config.json", b"{"),
        ("adapter_config.json", b"{"),
        ("tokenizer.json", b"{"),
        ("tokenizer_config.json", b"{"),
        ("special_tokens_map.json", b"{"),
        ("vocab.txt", b"a"),
    ],
)
def test_files_of_two_gigabytes(folder: Path, name: str, start: bytes) -> None:
    sparse(folder, name, 2 << 30, start)
    if name.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    read = load_tokenizer if name.startswith(("tokenizer", "special", "vocab")) else load
    refused(lambda: read(folder), rf"{re.escape(name)}.* has \d+ bytes")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "adapter_model.safetensors", "tokenizer.json"]
)
def test_what_is_no_file(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink(missing_ok=True)
    if name.startswith("adapter"):
        (folder / "adapter_config.json").write_text(json.dumps(LORA))
    made: dict[str, Callable[[], Any]] = {
        "pipe": lambda: os.mkfifo(folder / name),
        "device": lambda: (folder / name).symlink_to("/dev/zero"),
        "folder": lambda: (folder / name).mkdir(),
        "loop": lambda: (folder / name).symlink_to(folder / name),
    }
    made[kind]()
    read = load_tokenizer if name == "tokenizer.json" else load
    refused(
        lambda: read(folder),
        rf"{re.escape(name)} (is not a regular|cannot be opened|does not exist)|no tokenizer",
    )


def test_links_are_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The cache of the Hub consists of links, and people put links to large files into their folders."""
    blobs = tmp_path_factory.mktemp("blobs")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        shutil.move(folder / name, blobs / name)
        (folder / name).symlink_to(blobs / name)
    load(folder)
    load_tokenizer(folder)


@pytest.mark.parametrize(
    "shard",
    ["../outside.safetensors", "/absolute", "sub/a.safetensors", "", 5, ["x"], None, "a\0.safetensors",
     "config.json", "..\\a.safetensors"],
)  # fmt: skip
def test_an_index_stays_in_its_folder(folder: Path, shard: Any) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    refused(lambda: load(folder), r"index\.json: weight_map places 'a' in ")


def test_a_tensor_in_two_shards(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder / "one.safetensors")
    shutil.copy(folder / "one.safetensors", folder / "two.safetensors")
    places = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(places))
    refused(lambda: load(folder), r"'model\..*' is in .*one\.safetensors and in two\.safetensors")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", ["word_embeddings.weight", "layer.1.attention.self.value.bias", "scorer.mlp.2.weight"]
)
def test_weights_that_are_not_finite(folder: Path, name: str, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    stored = next(each for each in tensors if each.endswith(name))
    tensors[stored].view(-1)[-1] = value
    save_file(tensors, folder / "model.safetensors")
    refused(lambda: load(folder), rf"model\.safetensors: '{re.escape(stored)}' holds NaN or infinite values")


@pytest.mark.parametrize(
    ("value", "fine"), [(math.inf, True), (-math.inf, True), (math.nan, False)], ids=["inf", "-inf", "nan"]
)
def test_a_table_that_overflowed_when_stored_in_float16(folder: Path, value: float, fine: bool) -> None:
    """The texts that have such a token fail, and no other text and no other kind of tensor may."""
    tensors = {name: each.half() for name, each in load_file(folder / "model.safetensors").items()}
    table = next(each for name, each in tensors.items() if name.endswith("word_embeddings.weight"))
    table[byte_tokenizer().convert_tokens_to_ids("q"), 3] = value
    save_file(tensors, folder / "model.safetensors")
    if not fine:
        return refused(lambda: load(folder), "holds NaN or infinite values")
    pipeline = fast_pipeline(load(folder))
    assert len(pipeline(["sound"], ["x", "y"], threshold=0)[0]) == 2
    with pytest.raises(FloatingPointError, match="text 1"):
        pipeline(["sound", "a queen"], ["x", "y"])
    bias = next(name for name in tensors if name.endswith("value.bias"))
    tensors[bias][0] = value
    save_file(tensors, folder / "model.safetensors")
    refused(lambda: load(folder), "holds NaN or infinite values")


def test_weights_whose_sum_overflows_are_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(each for each in tensors if each.endswith("word_embeddings.weight"))
    tensors[name] = torch.full_like(tensors[name], 60000.0).half()
    save_file(tensors, folder / "model.safetensors")
    assert not tensors[name].sum().isfinite()
    load(folder)


@pytest.mark.parametrize(
    "content",
    [b"\xff", b'{"a":' + b"[" * 10**4 + b"]" * 10**4 + b"}", b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
     b'{"hidden_size": ' + b"9" * 5000 + b"}", b'{"a": 1, "a": 2}', b"5"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_json_that_is_none(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refused(lambda: load(folder), rf"/{name} (is not valid JSON|is nested|holds)")


def test_nothing_is_executed(folder: Path) -> None:
    marker = folder / "executed"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    for name in ("config.json", "tokenizer_config.json"):
        edited(folder, name, lambda options: options.update(auto_map={
            "AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]
        }))  # fmt: skip
    load(folder)
    load_tokenizer(folder)
    (folder / "adapter_config.json").write_text(
        json.dumps({**LORA, "auto_mapping": {"parent_library": "evil"}})
    )
    torch.save({}, folder / "adapter_model.bin")
    refused(lambda: load(folder), r"adapter_model\.bin is a pickle file")
    torch.save({"a": torch.zeros(3)}, folder / "model.safetensors")
    refused(lambda: load(folder), r"model\.safetensors is truncated or not a safetensors file")
    assert not marker.exists()


def ids(place: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda folder: edited(folder, "tokenizer.json", place)


def id_of_a(number: int) -> Change:
    return ids(lambda state: state["model"]["vocab"].update(a=number))


def after_carriage_returns(folder: Path) -> None:
    id_of_a(4 * 10**9)(folder)
    file = folder / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b": 4", b":\r4"))


TOKENIZERS: dict[str, tuple[Change, str]] = {
    "an id of the vocabulary": (id_of_a(10**6), "go up to 1000000"),
    "the largest id": (id_of_a(4 * 10**9), "go up to 4000000000, and no vocabulary has so many"),
    "the largest id, after a carriage return": (after_carriage_returns, "go up to 4000000000, and no"),
    "a negative id": (id_of_a(-1), "no tokenizer that can be loaded"),
    "an id of the template": (
        ids(lambda state: state["post_processor"]["special_tokens"]["[CLS]"].update(ids=[10**6])),
        "go up to 1000000",
    ),
    "a template of no token": (
        ids(lambda state: state["post_processor"].update(special_tokens={})),
        "no tokenizer that can be loaded",
    ),
    "deep": (
        lambda folder: (folder / "tokenizer.json").write_text("[" * 10**5 + "]" * 10**5),
        "no tokenizer that can be loaded",
    ),
    "a list of options": (
        lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
        r"tokenizer_config\.json holds no tokenizer that can be loaded",
    ),
    "options that are no JSON": (
        lambda folder: (folder / "special_tokens_map.json").write_text("{"),
        r"special_tokens_map\.json holds no tokenizer that can be loaded",
    ),
    "a pointer to options": (
        lambda folder: (folder / "tokenizer_config.json").write_text(
            "version https://git-lfs.github.com/spec/v1"
        ),
        r"tokenizer_config\.json is a Git LFS pointer",
    ),
    "an option of a wrong type": (
        lambda folder: edited(
            folder, "tokenizer_config.json", lambda options: options.update(model_max_length="x")
        ),
        r"/[^/.]* holds no tokenizer that can be loaded",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["a" * 5000, "owner/" + "a" * 5000])
def test_names_that_no_folder_can_have(name: str) -> None:
    refused(lambda: load(Path(name)), "cannot be opened: ")


def test_the_home_of_nobody() -> None:
    refused(lambda: load(Path("~nosuchuser/model")), "~nosuchuser/model does not exist, and ")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_of_another_vocabulary(folder: Path, name: str) -> None:
    change, message = TOKENIZERS[name]
    change(folder)
    refused(lambda: load_tokenizer(folder), message)


def test_the_largest_id_never_reaches_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers up to 5.17 copies the tokenizer, which takes 16 GB then."""
    change, message = TOKENIZERS["the largest id"]
    change(folder)
    monkeypatch.setattr("gliclass_fast.checkpoint.files.AutoTokenizer", None)
    refused(lambda: load_tokenizer(folder), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"r": value}, "r=.* is no r") for value in (10**9, -4, 0, "4", math.nan, 1.5, None, [])),
        *(
            ({"lora_alpha": value}, "lora_alpha=.* is no")
            for value in (math.nan, math.inf, "8", None, 1e308, 10**400)
        ),
        ({"rank_pattern": 5}, "rank_pattern is not an object"),
        ({"rank_pattern": {"(": 4}}, r"the pattern '\(' .* is not a regular expression"),
        ({"rank_pattern": {"query": "x"}}, "query=x is no r"),
        ({"rank_pattern": {"([a-z.0-9]+)+!": 4}}, "repeats a group"),
        ({"rank_pattern": {".*a.*b.*c.*d": 4}}, "repeats more than 3 times"),
        ({"alpha_pattern": {"query": math.nan}}, "query=nan is no lora_alpha"),
        ({"peft_type": []}, r"peft_type=\[\]"),
    ],
)  # fmt: skip
def test_adapters(folder: Path, options: dict[str, Any], message: str) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(LORA | options))
    pair = {f"{QUERY}A.weight": torch.zeros(4, 32), f"{QUERY}B.weight": torch.zeros(32, 4)}
    save_file(pair, folder / "adapter_model.safetensors")
    refused(lambda: load(folder), rf"adapter_config\.json: .*{message}")


def test_an_adapter_that_is_not_finite(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    pair = {f"{QUERY}A.weight": torch.full((4, 32), math.nan), f"{QUERY}B.weight": torch.zeros(32, 4)}
    save_file(pair, folder / "adapter_model.safetensors")
    refused(lambda: load(folder), r"adapter_model\.safetensors: '.*lora_A.weight' holds NaN")


def of_backbone(changes: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda options: options["encoder_config"].update(changes)


def test_a_config_that_fits_no_tensor(folder: Path) -> None:
    """The most that the bounds admit still fails at the first tensor, with nothing allocated."""
    most = {"intermediate_size": 1 << 17, "max_position_embeddings": 1 << 20}
    edited(folder, "config.json", of_backbone(most))
    refused(lambda: load(folder), "does not fit the configuration")
    edited(folder, "config.json", of_backbone({"num_hidden_layers": 128}))
    refused(lambda: load(folder), r"It holds \d+ tensors, and num_hidden_layers is 128")
    reference_model("deberta-v2").save_pretrained(folder)
    for name in ("max_position_embeddings", "max_relative_positions"):  # which change no shape
        edited(
            folder, "config.json", lambda options, name=name: options["encoder_config"].update({name: 8192})
        )
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_megabytes()
        load(folder)
        assert peak_megabytes() - before < MOST_MEGABYTES
        edited(
            folder, "config.json", lambda options, name=name: options["encoder_config"].update({name: 8193})
        )
        refused(lambda: load(folder), "relative positions up to 8193 .* are not supported")
