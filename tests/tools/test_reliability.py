"""The tools that measure reliability find a fault where there is one, and write it down once."""

from __future__ import annotations

import json
import re
import sys
from itertools import count as numbers_from
from pathlib import Path

import numpy as np
import pytest

from gliclass_fast import CheckpointError
from gliclass_fast.checkpoint.files import load_tokenizer
from tests.tiny import byte_tokenizer
from tools import invariance, matrix, soak, streams, stress
from tools.fuzzing import files, guided, kernels, sanitized
from tools.fuzzing.guided_kernels import Drawn
from tools.reliability import record
from tools.reliability_page import SECTIONS, render


def test_damaged_files_are_read_or_refused_in_a_line() -> None:
    found = files.fuzz(0, 1.0, iter(range(120)))
    assert found["faults"] == [] and found["files"] == 120 and 60 < found["refused"] < 120
    assert all(found["by_file"].values())


def test_an_error_of_another_kind_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(file: Path) -> None:
        raise KeyError(file.name)

    monkeypatch.setattr(files, "READERS", {"in/in.csv": (fails, (ValueError,))})
    found = files.fuzz(0, 1.0, iter(range(3)))
    assert len(found["faults"]) == 3 and "KeyError: 'in.csv'" in found["faults"][0]["error"]


@pytest.mark.long
@pytest.mark.skipif(sys.version_info < (3, 11) or sys.platform != "linux", reason="atheris has no build")
def test_coverage_leads_to_damaged_files_that_are_read_or_refused() -> None:
    number = list(files.READERS).index("in/in.jsonl")
    found = guided.fuzz(0, 0.05, numbers_from(number, len(files.READERS)))
    assert found["faults"] == [] and 0 < found["refused"] < found["files"]
    assert found["by_file"] == {"in/in.jsonl": found["files"]}


@pytest.mark.skipif(sys.version_info < (3, 11) or sys.platform != "linux", reason="atheris has no build")
def test_a_case_of_a_kernel_is_drawn_from_bytes() -> None:
    first, again, other = (Drawn(content) for content in (bytes(range(99)), bytes(range(99)), b"\7" * 99))
    assert len({tuple(each.randrange(1000) for _ in range(9)) for each in (first, again, other)}) == 2
    assert 0 <= first.random() < 1 and Drawn(b"").random() == 0 and Drawn(b"").choice("abc") == "a"
    drawn = {each(Drawn(bytes([n] * 99)))[0] for each in kernels.CASES for n in range(0, 256, 16)}
    assert {"attention", "linear", "linear_add", "norm_linear", "head_norm"} <= drawn


def test_a_report_begins_with_the_fault() -> None:
    said = "==7==ERROR: AddressSanitizer: heap-buffer-overflow\n  #0 linear.cpp:12"
    assert sanitized.report(f"case 1\n{said}\n{'#9 ceval.c' * 900}").startswith(said)
    assert sanitized.report("a.cpp:3:1: runtime error: shift").startswith("a.cpp:3:1")
    assert sanitized.report("killed") == "killed"


@pytest.mark.parametrize("value", ["x", [], {}, [1]])
def test_a_tokenizer_option_of_another_type_is_named(tmp_path: Path, value: object) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": value}))
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_tokenizer(tmp_path)


def test_a_record_has_no_folders_of_its_machine(tmp_path: Path) -> None:
    error = "File \"/srv/a/b-1/files.py\", line 2: '/var/x/in/in.csv' at https://host/page, in/in.csv"
    record("fuzz files", {"seed": 1, "faults": [{"error": error}]}, tmp_path / "found.json", among=("seed",))
    [found] = json.loads((tmp_path / "found.json").read_text())["fuzz files"]
    assert found["faults"][0]["error"] == (
        "File \"files.py\", line 2: 'in.csv' at https://host/page, in/in.csv"
    )


def test_a_run_takes_the_place_of_the_one_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    for seed, count in ((2, 1), (1, 5), (2, 7)):
        facts = {"seed": seed, "requests": count, "by_kind": {"a": count}, "faults": []}
        record("fuzz pipelines", {**facts, "seconds": 60, "processes": 2}, file, among=("seed",))
    record("memory, calls", {"engine": "gliclass-fast", "calls": 10}, file)
    written = json.loads(file.read_text())
    assert [(run["seed"], run["requests"]) for run in written["fuzz pipelines"]] == [(1, 5), (2, 7)]
    page = render(written)
    assert "12 calls, 0 faults. Seeds 1, 2; 4 minutes of a core." in page
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        f"## {SECTIONS[name][0]}" for name in ("fuzz pipelines", "memory, calls")
    ]


def test_wrong_answers_are_told_from_right_ones() -> None:
    right = [[("a", 0.5), ("b", 0.25)]]
    assert not stress.differ(right, [[("a", 0.5 + 1e-7), ("b", 0.25)]])
    assert stress.differ(right, [[("a", 0.51), ("b", 0.25)]])
    assert stress.differ(right, [[("b", 0.5), ("a", 0.25)]])


@pytest.mark.nightly
@pytest.mark.parametrize("name", stress.SCENARIOS)
def test_every_scenario_answers_rightly(name: str) -> None:
    row = stress.stress(name, 5)
    assert row["fault"] is None and row["wrong"] == 0 and row["answers"] > 0, row


@pytest.mark.long
def test_no_session_depends_on_others() -> None:
    seen, found = streams.run(12, 240)
    assert len(seen) >= 24 and min(seen) > 100
    assert found["sessions deleted"] and found["calls that failed"] and not found["answers that differ"]
    pipeline = streams.new_pipeline(max_cache_len=streams.KEPT)
    told = [(4, 0, number) for number in range(5)]
    scores = np.concatenate([list(streams.tell(pipeline, [each])) for each in told])
    assert streams.told_alone(np.array(told), scores) == (0.0, 0)
    scores[3] += 1e-3
    assert streams.told_alone(np.array(told), scores) == (pytest.approx(1e-3), 1)
    scores[4, 0] = np.nan
    assert streams.told_alone(np.array(told), scores) == (np.inf, 2)


def test_operations_give_the_same_bits_alone_and_in_a_batch() -> None:
    for row in invariance.of_operations():
        assert row["largest difference"] == 0, row


@pytest.mark.nightly
def test_memory_is_measured() -> None:
    assert soak.calls("gliclass-fast", 200)["after the warm-up, MiB"] > 100
    assert abs(soak.models("gliclass-fast", 10)["grown by, MiB"]) < 50
    assert 0 < soak.loading("gliclass-fast", "ettin-32m")["peak over file"] < 2


def test_rows_name_every_python_and_the_bounds_of_the_package() -> None:
    rows = matrix.rows()
    assert {row.python for row in rows} == set(matrix.PYTHONS) and len({row.name for row in rows}) == len(
        rows
    )
    [wanted] = re.findall(
        r"^dependencies = (\[.*\])$", (matrix.ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    for name, lowest in (each.split(">=") for each in json.loads(wanted)):
        assert matrix.OLDEST[name] in (lowest, f"{lowest}.0"), name
