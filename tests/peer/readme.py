"""Runs the Python blocks of the reference's README, as they are, with either package behind its names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gliclass_fast import demo

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
REPOSITORY = re.compile(r'"knowledgator/([\w.-]+)"')


class Block:
    """Runs one block, and holds the error that it ended with and what it left as `results`."""

    def __init__(self, code: str, names: dict[str, Any]) -> None:
        self.error: Exception | None = None
        try:
            exec(compile(code, "README.md", "exec"), names)
        except Exception as error:
            self.error = error
        self.results = names.get("results")


def run(readme: Path, bi_encoder: Path) -> list[Block]:
    """Runs all blocks in order, with names in common.

    Repositories stand for downloads: the demo checkpoint takes their place, or a given bi-encoder.
    """
    names: dict[str, Any] = {}

    def folder(found: re.Match[str]) -> str:
        return repr(str(bi_encoder if "biencoder" in found[1] else demo.PATH))

    codes = BLOCK.findall(readme.read_text(encoding="utf-8"))
    return [Block(REPOSITORY.sub(folder, code), names) for code in codes]
