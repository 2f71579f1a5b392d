"""Every test is seeded, and memory that the package asks for without a value holds NaN.

Where there is no GPU, Triton kernels run in Triton's interpreter, asked for before Triton is imported.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def quiet_libraries(pytestconfig: pytest.Config) -> None:
    """Silences transformers, and says where the reference's logits are kept.

    Both are imported here, which takes seconds, as the process that hands out the tests needs neither.
    """
    import transformers

    from tests import parity

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if hasattr(pytestconfig, "cache"):  # not with -p no:cacheprovider
        parity.folder = pytestconfig.cache.mkdir("reference-logits")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow what runs in Triton's interpreter; files with slow tests come first.

    Processes take whole files, so that otherwise one would end alone with a slow file.
    """
    for item in items:
        if "triton" in item.nodeid.lower():
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def _poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def wrapper(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = make(*args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.startswith("gliclass_fast") and tensor.is_floating_point() and not tensor.is_meta:
            tensor.fill_(float("nan"))
        return tensor

    return wrapper


@pytest.fixture(autouse=True)
def poison_uninitialised_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, _poisoned(getattr(torch, name)))
    from gliclass_fast.kernels import _buffers

    monkeypatch.setattr(_buffers, "empty", _poisoned(_buffers.empty))
    yield


@pytest.fixture
def kept_threads() -> Iterator[None]:
    """Puts torch's number of threads back after a test that sets it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def memory_used_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations of any size get memory that others had before, as large ones do."""
    monkeypatch.setattr("gliclass_fast.kernels._buffers._LEAST", 1)


@pytest.fixture
def dtypes_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are loaded on a CPU as on a GPU: in float16, or in bfloat16 if that overflows in a probe."""
    candidates = [torch.float16, torch.bfloat16]
    monkeypatch.setattr("gliclass_fast.runtime.loaded.dtype_candidates", lambda *_: candidates)


@pytest.fixture
def source_copy(tmp_path: Path) -> Path:
    """Copies what a build needs, as a build writes into its folder, which other tests read."""
    root, copy = Path(__file__).parent.parent, tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "_not_built.txt")
    for name in ("bench", "csrc", "gliclass_fast", "kernels"):
        shutil.copytree(root / name, copy / name, symlinks=True, ignore=ignored)
    for name in (
        "LICENSE",
        "MANIFEST.in",
        "Makefile",
        "README.md",
        "constraints.txt",
        "pyproject.toml",
        "setup.py",
    ):
        shutil.copy(root / name, copy)
    return copy
