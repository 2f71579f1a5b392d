"""A tiny stock checkpoint is written once and copied for every test, which may change it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tiny import byte_tokenizer, reference_model


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    reference_model("bert", scorer_type="mlp").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(stock: Path, tmp_path: Path) -> Path:
    shutil.copytree(stock, tmp_path, dirs_exist_ok=True)
    return tmp_path
