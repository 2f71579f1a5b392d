"""Who may import whom, and that the package works where nothing optional is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "gliclass_fast"
# module or folder -> what of ours it may import; a folder's own modules are always allowed
ALLOWED = {
    "prompts": set(),
    "results": set(),
    "inputs": {"prompts"},
    "batch": set(),
    "kernels": set(),
    "ops": {"kernels"},
    "config": set(),
    "weights": set(),
    "folders": {"weights"},
    "adapters": {"weights"},
    "layers": {"ops"},
    "encoders": {"batch", "config", "layers", "ops", "weights"},
    "decoders": {"batch", "config", "encoders", "layers", "ops", "weights"},
    "representations": {"batch", "config", "ops"},
    "scorers": {"batch", "config", "layers", "ops", "representations", "weights"},
    "calibrator": {"batch", "config", "ops", "weights"},
    "tower": {"batch", "config", "encoders", "ops", "representations", "weights"},
    "gliznet_config": {"config"},
    "gliznet_heads": {
        *("architectures", "batch", "config", "gliznet_config", "layers", "ops", "representations"),
        "weights",
    },
    "architectures": {
        *("batch", "calibrator", "config", "encoders", "gliznet_config", "gliznet_heads", "ops"),
        *("representations", "tower", "weights"),
    },
    "transfer": {"architectures"},
    "graphs": {"architectures", "batch", "transfer"},
    "precision": {"batch", "config"},
    "packing": {"batch"},
    "memory": {"packing"},
    "model": {
        *("adapters", "architectures", "batch", "config", "folders", "gliznet_config", "graphs", "memory"),
        *("ops", "packing", "precision", "transfer", "weights"),
    },
    "tokenization": {"batch", "config", "prompts"},
    "gliznet_tokenizer": {"batch", "folders", "tokenization"},
    "label_vectors": {"batch", "model", "tokenization"},
    "encoding": {
        *("batch", "config", "gliznet_config", "gliznet_tokenizer", "label_vectors", "prompts"),
        "tokenization",
    },
}


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "gliclass_fast":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gliclass_fast.")
            }
    return names


@pytest.mark.parametrize("name", ALLOWED)
def test_import_order(name: str) -> None:
    files = sorted((ROOT / name).glob("*.py")) if (ROOT / name).is_dir() else [ROOT / f"{name}.py"]
    assert files
    for file in files:
        extra = imported(file) - ALLOWED[name] - {name}
        assert not extra, f"{file.name} may not import {sorted(extra)}"


def test_only_ops_names_kernels() -> None:
    for file in ROOT.rglob("*.py"):
        if "kernels" not in file.parts and file.name != "ops.py":
            assert "kernels" not in imported(file), file


def test_public_api_without_optional_packages() -> None:
    """In a fresh process without triton, flash-attn, gliclass, the compiled extension and the command line's
    libraries."""
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


def test_the_command_says_what_it_needs() -> None:
    program = "import sys; sys.modules['typer'] = None; import gliclass_fast.__main__ as m; m.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "gliclass-fast[cli]" in done.stderr


def test_our_kernels_folder_is_not_a_top_level_package() -> None:
    """`kernels` is the import name of a package transformers looks for."""
    assert not (ROOT.parent / "kernels" / "__init__.py").exists()
    assert (ROOT / "kernels").is_symlink()
