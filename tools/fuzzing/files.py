"""Damaged files: whole ones with bytes or values changed. A reader takes them, or raises its own error."""

from __future__ import annotations

import copy
import csv
import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file

from gliclass_fast import CheckpointError, GLiClassModel, UnsupportedConfigError
from gliclass_fast.checkpoint.files import load_tokenizer
from gliclass_fast.checkpoint.lora import open_checkpoint
from gliclass_fast.cli.readers import read_rows
from gliclass_fast.cli.rows import FileFormatError, Reading
from tests.tiny import byte_tokenizer, reference_model

MOST_SECONDS = 10.0  # of the processor, for a file of a few kilobytes
MOST_FAULTS = 20
OF_CHECKPOINTS = (CheckpointError, UnsupportedConfigError)
PIECES = (
    b"", b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\n", b"\r",
    b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b"[" * 2000, b"\xef\xbb\xbf",
    b"\\ud800",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 10**9, 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf"), "",
    "x", "\0", "../../etc/passwd", "a" * 5000, [], {}, [None], [[]], {"": {}}, [1, "a"], "deberta-v2", "bert",
)  # fmt: skip
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["query"]}
ROWS = [["text", "id"], ["a film", "1"], ['quo"ted, and\nlong', "2"], ["", "3"], ["München 🚄", "4"]]


def prepared(folder: Path) -> Path:
    """Writes whole files: a tiny checkpoint, an adapter over it, and inputs of every form."""
    model = reference_model("bert", scorer_type="mlp")
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    _adapter(folder / "adapter", folder)
    (folder / "in").mkdir()
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with (folder / "in" / f"in{suffix}").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows(ROWS)
    records = [dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]
    (folder / "in" / "in.json").write_text(json.dumps(records), encoding="utf-8")
    (folder / "in" / "in.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return folder


def _adapter(adapter: Path, base: Path) -> None:
    """Writes a LoRA adapter of the query weights in the first layer."""
    adapter.mkdir()
    for file in base.iterdir():
        if file.is_file():
            os.link(file, adapter / file.name)
    width = json.loads((base / "config.json").read_text(encoding="utf-8"))["encoder_config"]["hidden_size"]
    place = "base_model.model.encoder.layer.0.attention.self.query.lora_"
    tensors = {f"{place}A.weight": torch.ones(4, width), f"{place}B.weight": torch.ones(width, 4)}
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(LORA), encoding="utf-8")


def _load(file: Path) -> None:
    GLiClassModel.from_pretrained(file.parent, device="cpu")


def _tensors(file: Path) -> None:
    for tensor in open_checkpoint(file.parent).values():
        tensor.sum()


def _tokenizer(file: Path) -> None:
    load_tokenizer(file.parent)("a film")


def _rows(file: Path) -> None:
    read_rows(file, Reading(keep=("id",)))


Read = Callable[[Path], None]
# file -> (who reads it, the errors that it may raise)
READERS: dict[str, tuple[Read, tuple[type[Exception], ...]]] = {
    "config.json": (_load, OF_CHECKPOINTS),
    "model.safetensors": (_tensors, OF_CHECKPOINTS),
    "tokenizer.json": (_tokenizer, OF_CHECKPOINTS),
    "tokenizer_config.json": (_tokenizer, OF_CHECKPOINTS),
    "adapter/adapter_config.json": (_tensors, OF_CHECKPOINTS),
    "adapter/adapter_model.safetensors": (_tensors, OF_CHECKPOINTS),
    **{f"in/in{suffix}": (_rows, (FileFormatError,)) for suffix in (".csv", ".tsv", ".json", ".jsonl")},
}


def damaged(content: bytes, is_json: bool, chance: Random) -> bytes:
    """Changes a file in one to four places: values of JSON, or bytes, mostly near the beginning."""
    if is_json and chance.random() < 0.6:
        value = json.loads(content)
        for _ in range(chance.randint(1, 3)):
            _change_value(value, chance)
        return json.dumps(value).encode()
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(changed) + 1)
        if chance.random() < 0.7:
            start = min(start, chance.randrange(1, 600))
        end = start + chance.choice((0, 0, 1, 1, 4, 40))
        taken = chance.choice(
            (chance.choice(PIECES), bytes(changed[:8]), bytes(changed[start : start + 30]) * 2)
        )
        changed[start:end] = taken
    return bytes(changed)


def _change_value(value: Any, chance: Random) -> None:
    """Changes, renames or removes one entry somewhere in nested JSON, each level with the same chance."""
    while isinstance(value, (dict, list)) and value:
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value[key], (dict, list)) and value[key] and chance.random() < 0.75:
            value = value[key]
            continue
        taken, how = value[key], chance.random()
        if how < 0.15:
            del value[key]
        elif how < 0.25 and isinstance(value, dict):
            value[f"{key}_"] = value.pop(key)
        else:
            value[key] = [taken, taken] if how < 0.3 else copy.deepcopy(chance.choice(VALUES))
        return


def fuzz(seed: int, minutes: float, numbers: Iterator[int]) -> dict[str, Any]:
    """Returns how many files of each name were read, how many of them were refused, and the faults."""
    torch.set_num_threads(1)
    read, refused, faults = dict.fromkeys(READERS, 0), 0, []
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as name:
        folder = prepared(Path(name))
        whole = {name: (folder / name).read_bytes() for name in READERS}
        for number in numbers:
            chance = Random(f"{seed}/{number}")
            name = chance.choice(list(READERS))
            content = damaged(whole[name], name.endswith(".json"), chance)
            error, problem = outcome(folder / name, whole[name], content, *READERS[name])
            read[name] += 1
            refused += error
            if problem is not None:
                faults.append(
                    {"number": number, "file": name, "begins": repr(content[:300]), "error": problem}
                )
            if time.monotonic() >= end or len(faults) >= MOST_FAULTS:
                break
    return {"files": sum(read.values()), "refused": refused, "by_file": read, "faults": faults}


def outcome(
    file: Path, whole: bytes, content: bytes, reader: Read, allowed: tuple[type[Exception], ...]
) -> tuple[bool, str | None]:
    """Reads a damaged file; returns whether it was refused as it may be, and what is wrong otherwise."""
    file.unlink()  # a new file, as the old one may be mapped
    file.write_bytes(content)
    start, refused = time.process_time(), False
    try:
        reader(file)
    except allowed as error:
        refused = True
        if "\n" in str(error).strip() or not str(error):
            return True, f"the message is not one line: {str(error)[:500]!r}"
    except BaseException as error:  # Rust's panics are no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return False, traceback.format_exc(limit=-4)[-2500:]
    finally:
        file.unlink()
        file.write_bytes(whole)
    if (took := time.process_time() - start) > MOST_SECONDS:
        return refused, f"took {took:.0f} s"
    return refused, None
