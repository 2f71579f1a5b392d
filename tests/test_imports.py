"""The package works where nothing optional is installed. Who may import whom stands in pyproject.toml."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "gliclass_fast"


@pytest.mark.slow
def test_public_api_without_optional_packages() -> None:
    """The process has no triton, flash-attn, gliclass, compiled extension or library of the command line."""
    absent = ["triton", "flash_attn", "flashdeberta", "gliclass", "pyarrow", "typer", "rich"]
    absent += ["gliclass_fast.kernels._compiled"]
    program = f"""
import sys
sys.modules.update(dict.fromkeys({absent}))
from gliclass_fast import ZeroShotClassificationPipeline, demo
pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
print(pipeline("I loved this film.", ["positive", "negative"], classification_type="single")[0][0]["label"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "positive"


@pytest.mark.slow
def test_the_command_says_what_it_needs() -> None:
    program = "import sys; sys.modules['typer'] = None; import gliclass_fast.__main__ as m; m.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "gliclass-fast[cli]" in done.stderr


def test_our_kernels_folder_is_not_a_top_level_package() -> None:
    """`kernels` is the import name of a package transformers looks for."""
    assert not (ROOT.parent / "kernels" / "__init__.py").exists()
    assert (ROOT / "kernels").is_symlink()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", ["gliclass_fast", "gliclass_fast.accelerate", "gliclass_fast.pipeline"])
def test_modules_that_are_functions_too_can_be_pickled(module: str, protocol: int) -> None:
    """They are given to workers as functions are: alone, and bound in a partial."""
    own = importlib.import_module(module)
    assert pickle.loads(pickle.dumps(own, protocol)) is own
    assert copy.deepcopy(own) is own is copy.copy(own)
    if callable(own):
        bound = pickle.loads(pickle.dumps(partial(own, "a", device="cpu"), protocol))
        assert bound.func is own and bound.args == ("a",)


@pytest.mark.long
def test_names_are_imported_when_they_are_asked_for_and_a_call_imports_no_compiler() -> None:
    """torch._dynamo takes seconds of every start, and nothing here needs it."""
    program = """
import sys
import gliclass_fast
assert "torch" not in sys.modules
import gliclass_fast.accelerate
from gliclass_fast import accelerate
from gliclass_fast import *
assert callable(accelerate) and gliclass_fast.accelerate is accelerate
for name in gliclass_fast.__all__:
    assert name in dir(gliclass_fast) and getattr(gliclass_fast, name) is globals().get(name), name
assert gliclass_fast.pipeline.TextInfo is TextInfo
for name in ("nothing", "_nothing"):
    assert not hasattr(gliclass_fast, name)
pipeline = ZeroShotClassificationPipeline(gliclass_fast.demo.PATH, device="cpu", progress_bar=False)
pipeline("I loved this film.", ["positive", "negative"])
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
