"""The reference's own tests and the examples of its README run on this package, behind the shim."""

from __future__ import annotations

import os
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from tests.accuracy import assert_same_results
from tests.peer.expected import BLOCKS, CLASSIFYING_BLOCKS, FAILING_BLOCKS, LACKS, PASSES
from tests.peer.readme import run
from tests.peer.sdist import unpacked
from tests.peer.shim import modules
from tests.tiny import label_tower, reference_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives the folder of the reference's tests and README; the archive is kept in pytest's cache."""
    cache = getattr(request.config, "cache", None)
    folder = tmp_path_factory.mktemp("reference")
    return unpacked(folder if cache is None else cache.mkdir("reference-sdist"), folder)


def outcomes(reference: Path) -> dict[str, bool]:
    """Runs all tests of the reference in one process, and says of each whether it passed."""
    (reference / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    plugins = ("-p", "tests.peer.shim", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *plugins, "--tb=no", "-q", "--junitxml=found.xml", "tests"]
    done = subprocess.run(
        command, cwd=reference, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # all pass, or some fail
    cases = ElementTree.parse(reference / "found.xml").iter("testcase")
    named = {f"{case.get('classname')}.{case.get('name')}": not len(case) for case in cases}
    return {name.removeprefix("tests."): passed for name, passed in named.items()}


def test_the_tests_of_the_reference_pass_but_for_what_is_listed(reference: Path) -> None:
    found = outcomes(reference)
    assert len(found) == 185
    assert sorted({name for name, passed in found.items() if passed} ^ PASSES) == []
    rest = set(found) - PASSES
    for reason, (count, patterns) in LACKS.items():
        lacking = {name for name in rest if any(fnmatchcase(name, pattern) for pattern in patterns)}
        assert len(lacking) == count, reason
        rest -= lacking
    assert sorted(rest) == []


def test_the_blocks_of_the_readme_run_and_give_the_results_of_the_reference(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # results are compared in float32
    reference_model("bert", architecture_type="bi-encoder", **label_tower()).save_pretrained(tmp_path)
    readme = reference / "README.md"
    theirs = run(readme, tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "gliclass"]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    ours = run(readme, tmp_path)
    assert len(ours) == BLOCKS
    failing = {number: block.error for number, block in enumerate(ours) if block.error is not None}
    assert failing.keys() == FAILING_BLOCKS.keys(), failing
    for number in CLASSIFYING_BLOCKS:
        assert_same_results(ours[number].results, theirs[number].results)
