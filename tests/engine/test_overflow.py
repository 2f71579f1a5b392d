"""What overflows float16 runs again in float32, one warning names it, and nothing else changes."""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
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
from gliclass_fast.cli.job import INTERRUPTED
from gliclass_fast.runtime import model
from gliclass_fast.runtime.loaded import LoadedNetwork
from gliclass_fast.text.prompts import Request
from tests import families
from tests.accuracy import ALONE_TOLERANCE, assert_same_results, assert_unchanged, sigmoid
from tests.sentences import DISTINCT, TEXTS
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model, tokenizer_of

LOUD = "~"  # of one token, whose embedding float16 cannot hold
LOUD_VALUE = 1e5  # above 65504, where float16 ends
KINDS = ("deberta-v2", "modernbert", "t5", *families.KINDS)
ROWS = (2, 5)  # of the texts that overflow
REQUESTS = [
    Request(text + LOUD if row in ROWS else text, tuple(own))
    for row, (text, own) in enumerate(zip(TEXTS, DISTINCT, strict=True))
]


Read = Callable[[], Mapping[str, Tensor]]


def reference(kind: str) -> Any:
    return families.reference(kind) if kind in families.KINDS else reference_model(kind)


def over(
    model: Any, read: Read, dtype: torch.dtype, device: str, backend: str | None
) -> ZeroShotClassificationPipeline:
    """Builds a pipeline over tensors for the configuration of a reference model."""
    config = model.config_json() if hasattr(model, "config_json") else model.config.to_dict()
    ours = GLiClassModel(config, read, "a loud model", dtype=dtype, device=device, backend=backend)
    return fast_pipeline(ours, tokenizer_of(model), max_length=512)


def quiet(kind: str, device: str = "cpu", backend: str | None = None) -> ZeroShotClassificationPipeline:
    model = reference(kind)
    return over(model, model.state_dict, torch.float16, device, backend)


def loud_tensors(kind: str, part: str = "", value: float = LOUD_VALUE) -> dict[str, Tensor]:
    """Gives a model's tensors with the word embedding of LOUD brought to `value`.

    part: of the names of the tensors to change."""
    row, tensors = byte_tokenizer().convert_tokens_to_ids(LOUD), reference(kind).state_dict()
    changed = dict(tensors)
    for name, tensor in tensors.items():
        if part in name and re.search(r"word_embed|tok_embed|embed_tokens|shared", name):
            changed[name] = tensor.clone()
            changed[name][row] *= value / tensor[row].abs().max()
    return changed


def loud(
    kind: str,
    dtype: torch.dtype = torch.float16,
    device: str = "cpu",
    backend: str | None = None,
    **change: Any,
) -> ZeroShotClassificationPipeline:
    """Builds the pipeline of `quiet` over loud tensors."""
    tensors = loud_tensors(kind, **change)
    return over(reference(kind), lambda: tensors, dtype, device, backend)


def logits(pipeline: ZeroShotClassificationPipeline, requests: list[Request] = REQUESTS) -> list[np.ndarray]:
    return [each.logits for each in pipeline.engine.score(requests)]


def check(
    found: list[np.ndarray], calm: list[np.ndarray], exact: list[np.ndarray], rows: tuple[int, ...] = ROWS
) -> None:
    """Rows that overflow score as in float32, and all others bit by bit as where nothing overflows."""
    for row, ours in enumerate(found):
        if row in rows:
            assert_unchanged(sigmoid(ours), sigmoid(exact[row]))
        else:
            assert np.array_equal(ours, calm[row])


def check_scores(
    kind: str,
    caplog: pytest.LogCaptureFixture,
    device: str = "cpu",
    backend: str | None = None,
    requests: list[Request] = REQUESTS,
    rows: tuple[int, ...] = ROWS,
    embed: bool = True,
) -> None:
    """Logits and embeddings over loud tensors are right, and each of the calls gives one warning."""
    calm, low = quiet(kind, device, backend), loud(kind, torch.float16, device, backend)
    exact, named = loud(kind, torch.float32, device, backend), ", ".join(map(str, rows))
    warning = f"values overflow torch.float16 in text {named} (counted from 0): it runs again in float32"
    check(*(logits(each, requests) for each in (low, calm, exact)), rows)
    assert [record.getMessage() for record in caplog.records] == [warning]
    caplog.clear()
    if not embed:
        return
    embeddings = [each.engine.embed(requests) for each in (low, calm, exact)]
    for name in ("logits", "text_embedding", "class_embeddings"):
        check(*([row[name] for row in found] for found in embeddings), rows)
    assert [record.getMessage() for record in caplog.records] == [warning]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_only_what_overflows_runs_again(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    check_scores(kind, caplog)


@pytest.mark.slow
def test_no_kernel_hides_an_overflow(caplog: pytest.LogCaptureFixture) -> None:
    """Attention and a scorer with ReLU run in Triton's interpreter; embeddings come of the same kernels."""
    requests = [Request("so good", ("a", "b")), Request(LOUD, ("c",)), Request("", ("d",))]
    check_scores("bi-encoder-fused", caplog, backend="triton", requests=requests, rows=(1,), embed=False)


@pytest.mark.parametrize("kind", ["bi-encoder", "bi-encoder-fused"])
def test_a_label_that_overflows_its_tower(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    calm = quiet(kind)
    low, exact = (loud(kind, dtype, part="label_encoder") for dtype in (torch.float16, torch.float32))
    requests = [Request(each.text, (*each.labels, LOUD) if row == 3 else each.labels)
                for row, each in enumerate(REQUESTS)]  # fmt: skip
    found, without, wide = (
        [own.logits for own in each.engine.score(requests)] for each in (low, calm, exact)
    )
    check(found, without, wide, rows=(3,))
    [record] = caplog.records
    assert "in text 3 (counted" in record.message
    embedded, theirs = (each.engine.embed(requests)[3]["class_embeddings"] for each in (low, exact))
    assert_unchanged(embedded, theirs)


def test_only_the_pass_that_overflows_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    calm, low, exact = quiet("deberta-v2"), loud("deberta-v2"), loud("deberta-v2", torch.float32)
    requests = [Request("a text", ("a",)), Request("another", ("a", "b", LOUD, f"c{LOUD}", "d", "e"))]
    found, without, wide = (each.engine.score(requests, 2)[1].logits[0] for each in (low, calm, exact))
    assert np.array_equal(found[:2], without[:2]) and np.array_equal(found[4:], without[4:])
    assert_unchanged(sigmoid(found[2:4]), sigmoid(wide[2:4]))
    [record] = caplog.records
    assert "in text 1 (counted" in record.message


def test_faces_name_the_callers_own_text(caplog: pytest.LogCaptureFixture) -> None:
    low = loud("deberta-v2")
    low(["a", f"b{LOUD}", "c"], ["x"], first_text=128)
    chunking = ZeroShotClassificationWithChunkingPipeline(
        low.model, low.tokenizer, device="cpu", progress_bar=False, text_chunk_size=20, text_chunk_overlap=0
    )
    chunking(["a" * 50, "b" * 50 + LOUD], ["x", "y"])
    theirs = loud("GliZNet D")
    gliznet.ZeroShotClassificationPipeline(theirs.model, theirs.tokenizer)(["a", "b", f"c{LOUD}"], ["x"])
    named = [record.getMessage().split(" in ")[1].split(" (")[0] for record in caplog.records]
    assert named == ["text 129", "text 1", "text 2"]
    with pytest.raises(TypeError, match=r"texts\[130\] must be a string"):
        low(["a", "b", None], ["x"], first_text=128)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_overflows_float32_too_raises(dtype: torch.dtype) -> None:
    broken = loud("deberta-v2", dtype, value=float("inf"))
    expected = r"not finite in float32 for text 2, 5 \(counted from 0\): the checkpoint is damaged"
    for run in (broken.engine.score, broken.engine.embed):
        with pytest.raises(FloatingPointError, match=expected):
            run(REQUESTS)


def test_a_message_names_few_of_many(caplog: pytest.LogCaptureFixture) -> None:
    loud("deberta-v2")([LOUD] * 14, ["x"])
    [record] = caplog.records
    assert "in text 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 4 more (counted" in record.message


def test_threads_share_one_twin_until_the_model_moves() -> None:
    tensors, built = loud_tensors("deberta-v2"), []

    def read() -> dict[str, Tensor]:
        built.append(tensors)
        return tensors

    low = over(reference("deberta-v2"), read, torch.float16, "cpu", None).model
    with ThreadPoolExecutor(4) as threads:
        twins = set(threads.map(lambda _: low.in_float32(), range(8)))
    [twin] = twins
    assert len(built) == 2 and twin.dtype is torch.float32 and low.dtype is torch.float16
    assert twin.in_float32() is twin
    other = low.to(torch.bfloat16).in_float32()
    assert other is not twin and len(built) == 4
    wide = low.to(torch.float32)
    assert wide.in_float32() is wide and len(built) == 5


def test_a_twin_is_not_pickled() -> None:
    low = GLiClassModel.from_pretrained(demo.PATH, dtype="float16", device="cpu")
    before = pickle.dumps(low)
    low.in_float32()
    assert pickle.dumps(low) == before


def test_a_twin_keeps_a_backend_that_has_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    low = GLiClassModel.from_pretrained(demo.PATH, "float16", "cpu", backend="reference")
    assert set(low.in_float32().ops.chosen.values()) == {"reference"}
    low = low.to(torch.bfloat16)
    monkeypatch.setattr(model, "unavailable_reason", lambda *_: "it is for 16 bit")
    assert set(low.in_float32().ops.chosen.values()) != {"reference"}


def test_memory_that_float32_lacks_comes_from_the_graphs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected, tensors = logits(loud("deberta-v2")), loud_tensors("deberta-v2")
    freed: list[LoadedNetwork] = []
    monkeypatch.setattr(LoadedNetwork, "free_graphs", lambda own: freed.append(own))
    read_before: list[bool] = []
    score = LoadedNetwork.score

    def read() -> dict[str, Tensor]:
        if read_before and not freed:
            raise torch.OutOfMemoryError("no room for weights")
        read_before.append(True)
        return tensors

    low = over(reference("deberta-v2"), read, torch.float16, "cpu", None)

    def scoring(own: LoadedNetwork, prompts: Any) -> Any:
        if own is not low.model.loaded and len(prompts) > 1:
            raise torch.OutOfMemoryError("too many")
        return score(own, prompts)

    monkeypatch.setattr(LoadedNetwork, "score", scoring)
    for ours, theirs in zip(logits(low), expected, strict=True):
        assert_unchanged(ours, theirs)
    assert freed == [low.model.loaded, low.model.loaded] and "it runs in halves" in caplog.text


@pytest.fixture
def loud_demo(tmp_path: Path) -> Path:
    """Writes the demo checkpoint with an embedding of "rutabaga" that float16 cannot hold."""
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
    assert_same_results(found[3]["predictions"], exact[3]["predictions"], ALONE_TOLERANCE)


def test_a_run_resumes_in_another_dtype(loud_demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "TEXTS_AT_A_TIME", 2)
    original = classify.ZeroShotClassificationPipeline.__call__

    def interrupted(self: Any, texts: list[str], *args: Any, **kwargs: Any) -> Any:
        if kwargs["first_text"] == 2:
            raise KeyboardInterrupt
        return original(self, texts, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ZeroShotClassificationPipeline, "__call__", interrupted)
        assert run_classify(loud_demo, "--dtype", "float16").exit_code == INTERRUPTED
    output = loud_demo.parent / "out.jsonl"
    before = output.read_text().splitlines()
    assert len(before) == 2
    refused = run_classify(loud_demo, "--quantization", "int8", "--resume")
    assert refused.exit_code == 2 and "with the same: quantization" in " ".join(refused.stderr.split())
    assert run_classify(loud_demo, "--dtype", "float32", "--batch-tokens", "64", "--resume").exit_code == 0
    after = output.read_text().splitlines()
    assert after[:2] == before and len(after) == 5
    note = json.loads(output.with_name("out.jsonl.options.json").read_text())
    assert note["dtypes"] == ["torch.float16", "torch.float32"] and note["finished"]
