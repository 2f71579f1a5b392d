"""Figures of reliability: whoever measures one writes its section of bench/results/reliability-cpu.json.

A section is a list of records, one per run. Each says on which machine, with which versions and at which
commit it was made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gliclass_fast.bench.timing import machine

FILE = Path(__file__).resolve().parent.parent / "bench" / "results" / "reliability-cpu.json"
_FOLDERS = re.compile(r"(?<![\w./])(?:/[\w.+-]+)+/(?=[\w.+-])")  # the absolute part of a path


def record(section: str, facts: Mapping[str, Any], file: Path = FILE, among: tuple[str, ...] = ()) -> None:
    """Writes down a run, in the place of the one before it that has the same values of the keys in `among`.

    Without keys, a section has one record. Paths lose their folders, which are those of one machine. The file
    is exchanged whole.
    """
    facts = json.loads(_FOLDERS.sub("", json.dumps(facts)))
    sections = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept = [run for run in sections.get(section, []) if any(run[key] != facts[key] for key in among)]
    kept.append({**facts, "machine": machine()})
    kept.sort(key=lambda run: [run[key] for key in among])
    new = file.with_suffix(".new")
    new.write_text(json.dumps({**sections, section: kept}, indent=1) + "\n", encoding="utf-8")
    new.replace(file)
