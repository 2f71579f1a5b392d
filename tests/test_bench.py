"""The benchmark times who is right, says who is left out and why, and writes down what it found."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from gliclass_fast import demo
from gliclass_fast.bench import cases, operations, peers, plots, refresh, tables, threads
from gliclass_fast.bench.cases import Case
from gliclass_fast.bench.command import _chosen
from gliclass_fast.bench.contenders import Setting, Stock
from gliclass_fast.bench.presets import ON_CPUS, PRESETS
from gliclass_fast.bench.run import ENGINE, PATIENCE, SAMPLED, Bench, Entrant
from gliclass_fast.bench.timing import Times
from gliclass_fast.cli import app
from gliclass_fast.runtime import dtype

DEMO = str(demo.PATH)
CASES = [Case("1x40", (40,)), Case("2 of 40-60", (40, 60))]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app.app, ["bench", *arguments], env={"COLUMNS": "200"})


def bench(peer_names: list[str], chosen: list[Case] = CASES, parts: tuple[str, ...] = ("forward",)) -> Any:
    return Bench(DEMO, "cpu", torch.float32, repeats=1).measure(lambda tokenizer: chosen, parts, peer_names)


def peer(name: str, change: Any = lambda logits: logits, **options: Any) -> SimpleNamespace:
    """Makes a peer that runs the reference and changes its logits."""

    class Changed(Stock):
        def logits(self, case: Case, count: int) -> list[np.ndarray]:
            return [change(each) for each in super().logits(case, count)]

    standard = {"PACKAGES": (), "SAME_MODEL": True}
    build = lambda setting: Changed(setting, setting.model)  # noqa: E731
    return SimpleNamespace(**{"NAME": name, "build": build, **standard, **options})


@pytest.mark.slow
def test_every_case_is_checked_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtype, "linear_is_faster_in_bfloat16", lambda *sizes: True)
    found = bench(["gliclass", "ONNX Runtime", "ONNX Runtime, int8"], parts=("forward", "pipeline"))
    assert not found["absent"] and [row["case"] for row in found["rows"]] == ["1x40", "2 of 40-60"]
    everyone = {
        ENGINE,
        f"{ENGINE}, int8",
        f"{ENGINE}, bfloat16",
        "gliclass",
        "ONNX Runtime",
        "ONNX Runtime, int8",
    }
    for row in found["rows"]:
        assert row["forward"].keys() == row["errors"].keys() == everyone and not row["left_out"]
        assert row["pipeline"].keys() == everyone - {"ONNX Runtime", "ONNX Runtime, int8"}
        assert row["errors"][ENGINE] < 1e-4 and row["errors"]["ONNX Runtime"] < 1e-4
        assert 1e-4 < row["errors"]["ONNX Runtime, int8"] < 1
        assert all(times["runs"] == 1 and times["median"] > 0 for times in row["forward"].values())
    assert found["rows"][1]["tokens"] == 100 and found["rows"][1]["texts"] == 2


@pytest.mark.slow
def test_a_wrong_answer_gets_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that rounds on purpose gets a time beside its error."""
    wrong = {"off": peer("off", lambda logits: logits + 0.01)}
    seen: list[float] = []

    def rounded(logits: np.ndarray) -> np.ndarray:
        seen.append(float(logits[0]))
        return logits + (0.01 if len(seen) % SAMPLED else 2)

    wrong["rounded"] = peer("rounded", rounded, ROUNDS=True)
    monkeypatch.setattr(peers, "available", lambda: wrong)
    for row in bench(["off", "rounded"])["rows"]:
        assert "off" not in row["forward"] and row["left_out"]["off"].startswith("wrong: logit error")
        assert "rounded" in row["forward"]
        assert row["errors"]["rounded"] > 0.1  # of the last text
    assert len(seen) == 2 * SAMPLED
    assert len(set(seen[:SAMPLED])) == len(set(seen[SAMPLED:])) == SAMPLED  # no two texts of a case are alike


@pytest.mark.slow
def test_a_peer_that_is_absent_or_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(setting: Setting) -> Any:
        raise RuntimeError("no such kernel")

    def fail_later(logits: np.ndarray) -> np.ndarray:
        raise RuntimeError("not today")

    known = {
        "missing": peer("missing", PACKAGES=("no_such_package",)),
        "elsewhere": peer("elsewhere", unsuitable=lambda setting: "needs a GPU"),
        "broken": peer("broken", build=fail),
        "late": peer("late", fail_later),
    }
    monkeypatch.setattr(peers, "available", lambda: known)
    found = bench(list(known))
    assert found["absent"]["missing"] == "not installed: no_such_package"
    assert found["absent"]["elsewhere"] == "needs a GPU"
    assert "no such kernel" in found["absent"]["broken"]
    assert "not today" in found["rows"][0]["left_out"]["late"]


@pytest.mark.slow
def test_a_peer_that_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PATIENCE, "cpu", 0.0)
    first, second = bench(["gliclass"])["rows"]
    assert "gliclass" in first["forward"] and second["left_out"]["gliclass"].endswith("s a run")
    assert ENGINE in second["forward"]


def test_every_peer_is_a_module_with_what_is_needed() -> None:
    known = peers.available()
    assert {"gliclass", "ONNX Runtime", "cross-encoder (NLI)"} <= known.keys()
    assert all(name == known[name].NAME and callable(known[name].build) for name in known)
    wanted = {name for preset in PRESETS.values() for name in preset.peers}
    assert wanted <= known.keys()


@pytest.mark.slow
def test_a_pass_per_label_is_counted_as_such() -> None:
    case = cases.label_cases(cases.demo_tokenizer(), (3,), 20, 2)[0]
    row = bench(["cross-encoder (NLI)"], [case])["rows"][0]
    assert "cross-encoder (NLI)" in row["forward"] and "cross-encoder (NLI)" not in row["errors"]
    model, tokenizer = cases.load(DEMO)
    setting = Setting(model, tokenizer, "cpu", torch.float32)
    contender: Any = peers.build(peers.available()["cross-encoder (NLI)"], setting)
    (batch,) = contender.inputs(case)
    assert len(batch["input_ids"]) == 2 * 3
    assert abs(contender.tokens(case) - int(batch["attention_mask"].sum())) <= 0.1 * contender.tokens(case)


@pytest.mark.slow
def test_a_peer_that_fails_while_it_is_timed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Stock):
        def forward(self, case: Case) -> Any:
            raise RuntimeError("out of memory, say")

    known = {"broken": peer("broken", build=lambda setting: Broken(setting, setting.model))}
    monkeypatch.setattr(peers, "available", lambda: known)
    for row in bench(["broken"])["rows"]:
        assert "out of memory, say" in row["left_out"]["broken"] and ENGINE in row["forward"]


@pytest.mark.slow
def test_the_engine_keeps_the_weights_it_was_made_with() -> None:
    """The reference is rounded after the engine was made, which must not follow it while it is timed."""
    made = Bench(DEMO, "cpu", torch.bfloat16, repeats=1)
    [case] = made.prepare(lambda tokenizer, window: CASES[:1])
    engine: Any = made.entrants[ENGINE].contender
    loaded = engine.model.loaded
    engine.logits(case, 1)
    assert engine.model.loaded is loaded


def test_a_gpu_has_recorded_its_graphs_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[None] = []
    made = Bench(DEMO, "cuda", torch.float32, repeats=1)
    contender: Any = SimpleNamespace(forward=lambda case: lambda: runs.append(None), tokens=lambda case: 1)
    made.entrants = {ENGINE: Entrant(contender, same_model=False)}

    def timed(functions: Any, *given: Any, **options: Any) -> dict[str, Any]:
        assert len(runs) >= 2  # the second run of a size records it
        return {}

    monkeypatch.setattr("gliclass_fast.bench.run.alternate", timed)
    made.row(CASES[0], ("forward",))
    assert runs


def test_threads_are_timed_alone_and_beside_a_busy_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "CASES", (Case("1x40", (40,)),))
    monkeypatch.setattr(peers, "available", lambda: {threads.PEER: peer(threads.PEER)})
    before = torch.get_num_threads()
    try:
        rows = threads.measure(DEMO, repeats=1)
    finally:
        torch.set_num_threads(before)
    columns, cells = tables.thread_table(rows)
    assert columns[2:] == [threads.ONE, threads.TWO, threads.BESIDE]
    assert [row[1] for row in cells] == ["gliclass-fast", "gliclass-fast, int8", threads.PEER]
    assert [bool(row[2]) for row in cells] == [True, True, False]
    assert all("times as long" in row[4] for row in cells)


def test_a_gpu_is_timed_by_replays_of_a_graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[str] = []
    graph = SimpleNamespace(replay=lambda: calls.append("replay"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda _: nullcontext(calls.append("graph")))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    properties = SimpleNamespace(multi_processor_count=2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    case = operations.Case("attention", "attention", (), flops=1.0, tiles=4)
    functions = {name: partial(calls.append, name) for name in ("reference", "triton")}
    monkeypatch.setattr(operations, "cases", lambda *_: [case])
    monkeypatch.setattr(operations, "implementations", lambda *_: dict(functions))
    monkeypatch.setattr(operations, "errors", lambda _: {})
    times = Times(3.0, 2.0, 4.0, 5.0, 9)
    monkeypatch.setattr(operations, "alternate", lambda runs, *_, **__: dict.fromkeys(runs, times))
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 1500\n", encoding="utf-8")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    [row] = operations.measure("cuda", torch.float16, 9)
    once = operations.CALLS["cuda"]
    assert calls[: 2 * once + 1] == ["triton"] * once + ["graph"] + ["triton"] * once
    assert set(calls[2 * once + 1 :]) <= {"replay"}
    assert row["ms"]["triton"]["median"] == 3 / once and row["ms"]["reference"]["median"] == 3
    # 1500 million clocks a second on two multiprocessors, for four tiles
    assert row["sm_mhz"] == 1500 and row["clocks_per_tile"] == {"triton": 3 / once * 1.5e6 * 2 / 4}
    smi.write_text("#!/bin/sh\necho '[N/A]'\n", encoding="utf-8")
    [row] = operations.measure("cuda", torch.float16, 9)
    assert "sm_mhz" not in row and "clocks_per_tile" not in row


@pytest.mark.long
def test_what_it_costs_to_follow_a_model_is_measured() -> None:
    steps = refresh.measure(DEMO, repeats=2)
    assert min(steps.values()) > 0 and steps["a look without a change, ms"] < steps["a refresh, ms"]


@pytest.mark.long
def test_a_case_the_model_has_no_positions_for_is_listed() -> None:
    first, second = bench([], [Case("1x40", (40,)), Case("1x3000", (3000,))])["rows"]
    assert ENGINE in first["forward"]
    assert second["forward"] == {} and "longer than the model's" in second["left_out"][ENGINE]


def test_texts_have_the_length_asked_for() -> None:
    tokenizer = cases.demo_tokenizer()
    for case in (*cases.CPU_CASES, *cases.label_cases(tokenizer, (1, 64), 64, 2)):
        block = "".join(f"<<LABEL>>{label}" for label in case.labels) + "<<SEP>>"
        found = [len(tokenizer(block + text)["input_ids"]) for text in cases.texts(case, tokenizer)]
        assert found == list(case.lengths)


def result(by_label_count: bool) -> dict[str, Any]:
    """Makes the result of 3 lengths x 2 numbers of labels, or of cases; "slow" is left out once."""
    rows = []
    for labels in (1, 2):
        for length in (10, 20, 30):
            times = {ENGINE: 10.0 * labels, "gliclass": 40.0 * labels, "slow": 80.0}
            if (labels, length) == (2, 20):
                del times["slow"]
            forward = {n: {"median": t, "p20": t, "p80": t, "p99": t, "runs": 1} for n, t in times.items()}
            left_out = {} if "slow" in times else {"slow": "about 99 s a run"}
            row = {"case": f"{length} {labels}", "texts": 1, "labels": labels, "tokens": length}
            rows.append({**row, "forward": forward, "errors": {ENGINE: 1e-6}, "left_out": left_out})
    machine = {"processor": "a <processor>", "threads": 2, "versions": {"torch": "2"}, "commit": "abc"}
    run = {"shape": "tiny", "dtype": "float32", "rows": rows, "absent": {"other": "not installed: other"}}
    return {
        "benchmark": "test", "machine": machine, "parts": ["forward"], "by_label_count": by_label_count,
        "runs": [run],
    }  # fmt: skip


def test_tables() -> None:
    found = result(by_label_count=True)
    columns, rows = tables.grid_table(found["runs"][0], "forward")
    assert columns == ["tiny", "1", "2", "mean"]
    assert rows == [
        [ENGINE, "100.0", "50.0", "75.0"],
        ["gliclass", "25.0", "12.5", "18.8"],
        ["slow", "12.5", "-", "-"],
    ]
    assert tables.case_rows(found["runs"][0], "forward")[0] == [
        "10 1", ENGINE, "10.0", "10.0", "", "4.00x", "100.0", "1e-06",
    ]  # fmt: skip
    left_out = ["20 2", "slow", "about 99 s a run", "", "", "", "", ""]
    assert left_out in tables.case_rows(found["runs"][0], "forward")
    found["runs"][0]["rows"][0]["errors"]["fast, int8"] = 0.0125
    columns, rows = tables.rounding_error_table(found)
    assert columns == ["shape", "batch", "fast, int8"]
    assert rows[:2] == [["tiny", "10 1", "0.0125"], ["tiny", "20 1", ""]]
    columns, rows = tables.ratio_table(found, "forward")
    assert rows[4] == ["tiny", "20 2", "80", "20 (**4.00x**)", ""]


@pytest.mark.slow
@pytest.mark.parametrize("by_label_count", [False, True])
def test_a_report_opens_without_a_network(by_label_count: bool, tmp_path: Path) -> None:
    from gliclass_fast.bench import page

    found = result(by_label_count)
    pictures = plots.draw(found, tmp_path)
    names = {"labels-tiny"} if by_label_count else {"speedup"}
    assert {each.stem for each in pictures} == names | {"length"}
    assert all(each.with_suffix(".png").read_bytes()[1:4] == b"PNG" for each in pictures)
    page.write(found, pictures, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<svg") == len(pictures) and "a &lt;processor&gt;" in text
    assert "not installed: other" in text and "about 99 s a run" in text
    assert not any(mark in text for mark in ("<script", "<link", "src=", "@import"))


@pytest.mark.slow
def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = ("--model", DEMO, "--peers", "none", "--repeats", "1", "--device", "cpu", "--json", str(file))
    done = run(*options, "--report", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["benchmark"] == "quick" and found["machine"]["threads"] == torch.get_num_threads()
    assert "gliclass-fast" in done.stdout and (tmp_path / "out" / "report.html").exists()


def test_peers_whose_names_hold_a_comma_can_be_chosen() -> None:
    for names in (["ONNX Runtime, int8"], ["gliclass", "OpenVINO, int8", "ONNX Runtime"], list(ON_CPUS)):
        assert _chosen(",".join(names), PRESETS["quick"]) == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--preset", "fast"), "choose one of: quick, standard, card"),
        (("--peers", "nobody"), "unknown peer 'nobody'; known: 'cross-encoder (NLI)', "),
        (("--dtype", "int4"), "choose float32, float16 or bfloat16"),
        (("--preset", "quality"), "--data FOLDER is needed"),
        (("--model", "no/such/folder"), "does not exist"),
        (("--preset", "quality", "--data", ".", "--model", "bert-base"), "has random weights"),
        (("--device", "mps"), "choose cpu or cuda"),
        (("--json", "no/folder/x.json"), "--json: there is no folder no/folder"),
        (("--report", "/sys/report", "--model", "no/such/folder"), "'/sys/report'"),
        (("--threads", "0"), "Invalid value for '--threads'"),
        (("--data", "."), "--preset quick has no use for --data"),
        (("--preset", "memory", "--model", DEMO), "--preset memory has no use for --model"),
        (("--preset", "serving", "--threads", "1"), "--preset serving has no use for --threads"),
        (("--preset", "ops", "--report", "out"), "--preset ops has no use for --report"),
        (("--preset", "streaming", "--device", "cuda"), "--preset streaming is for cpu alone, not for cuda"),
    ],
)
def test_mistakes(options: tuple[str, ...], message: str) -> None:
    done = run(*([] if "--device" in options else ["--device", "cpu"]), *options)
    assert done.exit_code == 2 and message in " ".join(done.stderr.split())
