"""What overflows float16: it runs again in float32, one warning names it, and nothing else changes."""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from gliclass_fast import (
    GLiClassModel,
    ZeroShotClassificationPipeline,
    ZeroShotClassificationWithChunkingPipeline,
    demo,
    gliznet,
)
from gliclass_fast.cli import app, classify
from gliclass_fast.runtime import model
from gliclass_fast.text.prompts import Request
from tests import families
from tests.accuracy import ALONE_TOLERANCE
from tests.sentences import TEXTS
from tests.tiny import byte_tokenizer, reference_model

LOUD = "~"  # of one token, whose embedding float16 cannot hold
LOUD_VALUE = 1e5  # above 65504, where float16 ends
KINDS = ("deberta-v2", "modernbert", "t5", *families.KINDS)
ROWS = (2, 5)  # of the texts that overflow
REQUESTS = [
    Request(text + LOUD if row in ROWS else text, tuple(own))
    for row, (text, own) in enumerate(zip(TEXTS, families.DISTINCT, strict=True))
]
NAMED = "torch.float16 in text 2, 5 (counted from 0): it runs again in float32"


def quiet(
    kind: str, folder: Path, device: str = "cpu", backend: str | None = None
) -> ZeroShotClassificationPipeline:
    if kind in families.KINDS:
        return families.pipeline(kind, torch.float16, device, folder, backend)[0]
    ours = GLiClassModel.from_gliclass(reference_model(kind), torch.float16, device, backend)
    return ZeroShotClassificationPipeline(
        ours, byte_tokenizer(), device=device, progress_bar=False, batch_tokens=256, max_length=512
    )


def loud_tensors(
    tensors: Mapping[str, Tensor], part: str = "", value: float = LOUD_VALUE
) -> dict[str, Tensor]:
    """A checkpoint's tensors, the word embedding of LOUD brought to `value`; part: of the names to change."""
    row, changed = byte_tokenizer().convert_tokens_to_ids(LOUD), dict(tensors)
    for name, tensor in tensors.items():
        if part in name and re.search(r"word_embed|tok_embed|embed_tokens|shared", name):
            changed[name] = tensor.clone()
            changed[name][row] *= value / tensor[row].abs().max()
    return changed


def loud(
    pipeline: ZeroShotClassificationPipeline,
    dtype: torch.dtype = torch.float16,
    part: str = "",
    value: float = LOUD_VALUE,
) -> ZeroShotClassificationPipeline:
    """The same pipeline over such tensors, in a dtype."""
    tensors = loud_tensors(pipeline.model._read_tensors(), part, value)
    config, device, backend = pipeline.model.config, pipeline.device, pipeline.model._backend
    changed = GLiClassModel(config, lambda: tensors, "a loud model", dtype, device, backend)
    tokenizers = {"tokenizer": pipeline.tokenizer, "labels_tokenizer": pipeline.labels_tokenizer}
    return ZeroShotClassificationPipeline(
        changed, **tokenizers, device=device, progress_bar=False, batch_tokens=256, max_length=512
    )


def logits(pipeline: ZeroShotClassificationPipeline, **options: Any) -> list[np.ndarray]:
    return [each.logits for each in pipeline.engine.score(REQUESTS, **options)]


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.astype(np.float64)))


def check(
    found: list[np.ndarray], calm: list[np.ndarray], exact: list[np.ndarray], rows: tuple[int, ...] = ROWS
) -> None:
    """Rows that overflow score as in float32, all others bit by bit as where nothing overflows."""
    for row, ours in enumerate(found):
        if row in rows:
            assert np.abs(sigmoid(ours) - sigmoid(exact[row])).max() <= ALONE_TOLERANCE
        else:
            assert np.array_equal(ours, calm[row])


def check_scores(calm: ZeroShotClassificationPipeline, caplog: pytest.LogCaptureFixture) -> None:
    """Logits and embeddings over loud tensors, and the one warning that each of the calls gives."""
    low, exact = loud(calm), loud(calm, torch.float32)
    check(logits(low), logits(calm), logits(exact))
    assert [record.getMessage() for record in caplog.records] == [f"values overflow {NAMED}"]
    caplog.clear()
    embeddings = [each.engine.embed(REQUESTS) for each in (low, calm, exact)]
    for name in ("logits", "text_embedding", "class_embeddings"):
        found, without, wide = ([row[name] for row in rows] for rows in embeddings)
        check(found, without, wide)
    assert [record.getMessage() for record in caplog.records] == [f"values overflow {NAMED}"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_overflows_runs_again(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_scores(quiet(kind, tmp_path), caplog)


def test_no_kernel_hides_an_overflow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Attention and a scorer with ReLU, in Triton's interpreter."""
    check_scores(quiet("bi-encoder-fused", tmp_path, backend="triton"), caplog)


@pytest.mark.parametrize("kind", ["bi-encoder", "bi-encoder-fused"])
def test_a_label_that_overflows_its_tower(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calm = quiet(kind, tmp_path)
    low, exact = (loud(calm, dtype, "label_encoder") for dtype in (torch.float16, torch.float32))
    requests = [Request(each.text, (*each.labels, LOUD) if row == 3 else each.labels)
                for row, each in enumerate(REQUESTS)]  # fmt: skip
    found, without, wide = (
        [own.logits for own in each.engine.score(requests)] for each in (low, calm, exact)
    )
    check(found, without, wide, rows=(3,))
    [record] = caplog.records
    assert "in text 3 (counted" in record.message
    embedded = low.engine.embed(requests)[3]
    theirs = exact.engine.embed(requests)[3]
    assert embedded["class_embeddings"] == pytest.approx(theirs["class_embeddings"], abs=ALONE_TOLERANCE)


def test_only_the_pass_that_overflows_runs_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calm = quiet("deberta-v2", tmp_path)
    low, exact = loud(calm), loud(calm, torch.float32)
    requests = [Request("a text", ("a",)), Request("another", ("a", "b", LOUD, f"c{LOUD}", "d", "e"))]
    found, without, wide = (each.engine.score(requests, 2)[1].logits for each in (low, calm, exact))
    assert np.array_equal(found[:2], without[:2]) and np.array_equal(found[4:], without[4:])
    assert np.abs(sigmoid(found[2:4]) - sigmoid(wide[2:4])).max() <= ALONE_TOLERANCE
    [record] = caplog.records
    assert "in text 1 (counted" in record.message


def test_faces_name_the_callers_own_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    low = loud(quiet("deberta-v2", tmp_path))
    low(["a", f"b{LOUD}", "c"], ["x"], first_text=128)
    chunking = ZeroShotClassificationWithChunkingPipeline(
        low.model, low.tokenizer, device="cpu", progress_bar=False, text_chunk_size=20, text_chunk_overlap=0
    )
    chunking(["a" * 50, "b" * 50 + LOUD], ["x", "y"])
    theirs = loud(quiet("GliZNet D", tmp_path))
    gliznet.ZeroShotClassificationPipeline(theirs.model, theirs.tokenizer)(["a", "b", f"c{LOUD}"], ["x"])
    named = [record.getMessage().split(" in ")[1].split(" (")[0] for record in caplog.records]
    assert named == ["text 129", "text 1", "text 2"]
    with pytest.raises(TypeError, match=r"texts\[130\] must be a string"):
        low(["a", "b", None], ["x"], first_text=128)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_overflows_float32_too_raises(dtype: torch.dtype, tmp_path: Path) -> None:
    broken = loud(quiet("deberta-v2", tmp_path), dtype, value=float("inf"))
    expected = r"not finite in float32 for text 2, 5 \(counted from 0\): the checkpoint is damaged"
    for run in (broken.engine.score, broken.engine.embed):
        with pytest.raises(FloatingPointError, match=expected):
            run(REQUESTS)


def test_a_message_names_few_of_many(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loud(quiet("deberta-v2", tmp_path))([LOUD] * 14, ["x"])
    [record] = caplog.records
    assert "in text 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 4 more (counted" in record.message


def test_threads_share_one_twin_until_the_model_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = loud(quiet("deberta-v2", tmp_path)).model
    built = []
    build = GLiClassModel._build_twin
    monkeypatch.setattr(GLiClassModel, "_build_twin", lambda own: built.append(own) or build(own))
    with ThreadPoolExecutor(4) as threads:
        twins = set(threads.map(lambda _: low.in_float32(), range(8)))
    [twin] = twins
    assert len(built) == 1 and twin.dtype is torch.float32 and low.dtype is torch.float16
    assert twin.in_float32() is twin
    other = low.to(torch.bfloat16).in_float32()
    assert other is not twin and len(built) == 2
    wide = low.to(torch.float32)
    assert wide.in_float32() is wide and len(built) == 2


def test_a_twin_is_not_pickled(tmp_path: Path) -> None:
    low = GLiClassModel.from_pretrained(demo.PATH, dtype="float16", device="cpu")
    before = pickle.dumps(low)
    low.in_float32()
    assert pickle.dumps(low) == before


def test_a_twin_keeps_a_backend_that_has_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low = GLiClassModel.from_pretrained(demo.PATH, "float16", "cpu", backend="reference")
    assert set(low.in_float32().ops.chosen.values()) == {"reference"}
    low = low.to(torch.bfloat16)
    monkeypatch.setattr(model, "unavailable_reason", lambda *_: "it is for 16 bit")
    assert set(low.in_float32().ops.chosen.values()) != {"reference"}


def test_memory_that_float32_lacks_comes_from_the_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    low = loud(quiet("deberta-v2", tmp_path))
    expected = logits(low)
    low = loud(quiet("deberta-v2", tmp_path))
    freed: list[GLiClassModel] = []
    monkeypatch.setattr(GLiClassModel, "free_graphs", lambda own: freed.append(own))
    low.engine._relieve = low.model.free_graphs
    build, score = GLiClassModel._build_twin, GLiClassModel.score

    def building(own: GLiClassModel) -> GLiClassModel:
        if not freed:
            raise torch.OutOfMemoryError("no room for weights")
        return build(own)

    def scoring(own: GLiClassModel, prompts: Any) -> Any:
        if own is not low.model and len(prompts) > 1:
            raise torch.OutOfMemoryError("too many")
        return score(own, prompts)

    monkeypatch.setattr(GLiClassModel, "_build_twin", building)
    monkeypatch.setattr(GLiClassModel, "score", scoring)
    for ours, theirs in zip(logits(low), expected, strict=True):
        assert ours == pytest.approx(theirs, abs=ALONE_TOLERANCE)
    assert freed == [low.model, low.model] and "it runs in halves" in caplog.text


@pytest.fixture
def loud_demo(tmp_path: Path) -> Path:
    """The demo checkpoint with an embedding of "rutabaga" that float16 cannot hold."""
    folder = tmp_path / "model"
    shutil.copytree(demo.PATH, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "word_embeddings" in name)
    row = AutoTokenizer.from_pretrained(demo.PATH).convert_tokens_to_ids("##ag")
    tensors[name] = tensors[name].float()
    tensors[name][row] *= LOUD_VALUE / tensors[name][row].abs().max()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def run_classify(folder: Path, *options: str) -> Result:
    rows, output = folder.parent / "rows.txt", folder.parent / "out.jsonl"
    rows.write_text("\n".join(["goal scored"] * 3 + ["rutabaga soup", "senate vote"]), encoding="utf-8")
    given = [
        "--labels",
        "sports,cooking",
        "--model",
        str(folder),
        "--output",
        str(output),
        "--threshold",
        "0",
    ]
    return CliRunner().invoke(app.app, ["classify", str(rows), *given, "--device", "cpu", *options])


def test_classify_goes_on_and_names_the_row(
    loud_demo: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(classify, "TEXTS_AT_A_TIME", 2)
    assert run_classify(loud_demo, "--dtype", "float16").exit_code == 0
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "in text 3 (counted" in record.getMessage()
    found = [json.loads(line) for line in (loud_demo.parent / "out.jsonl").read_text().splitlines()]
    assert run_classify(loud_demo, "--dtype", "float32").exit_code == 0
    exact = [json.loads(line) for line in (loud_demo.parent / "out.jsonl").read_text().splitlines()]
    assert len(found) == len(exact) == 5
    for ours, theirs in zip(found[3]["predictions"], exact[3]["predictions"], strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=ALONE_TOLERANCE)


def test_a_run_resumes_in_another_dtype(loud_demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "TEXTS_AT_A_TIME", 2)
    original = classify.ZeroShotClassificationPipeline.__call__

    def interrupted(self: Any, texts: list[str], *args: Any, **kwargs: Any) -> Any:
        if kwargs["first_text"] == 2:
            raise KeyboardInterrupt
        return original(self, texts, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(classify.ZeroShotClassificationPipeline, "__call__", interrupted)
        assert run_classify(loud_demo, "--dtype", "float16").exit_code == classify.INTERRUPTED
    output = loud_demo.parent / "out.jsonl"
    before = output.read_text().splitlines()
    assert len(before) == 2
    refused = run_classify(loud_demo, "--precision", "int8", "--resume")
    assert refused.exit_code == 2 and "with the same: precision" in " ".join(refused.stderr.split())
    assert run_classify(loud_demo, "--dtype", "float32", "--batch-tokens", "64", "--resume").exit_code == 0
    after = output.read_text().splitlines()
    assert after[:2] == before and len(after) == 5
    note = json.loads(output.with_name("out.jsonl.options.json").read_text())
    assert note["dtypes"] == ["torch.float16", "torch.float32"] and note["finished"]
