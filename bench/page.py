"""A result as one HTML file that needs no network: the file holds its tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from gliclass_fast.bench.tables import CASE_COLUMNS, case_rows, grid_table, machine_line

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; font-size: 90%; }
th, td { border-bottom: 1px solid #ccc; padding: .3em .8em; text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
pre { overflow: auto; background: #f4f4f4; padding: 1em; }
"""


def write(result: dict[str, Any], pictures: Sequence[Path], file: Path) -> None:
    parts = [f"<h1>gliclass-fast bench: {escape(result['benchmark'])}</h1>"]
    parts.append(f"<p>{escape(machine_line(result['machine']))}</p>")
    for run in result["runs"]:
        parts.append(f"<h2>{escape(run['shape'])}, {escape(run['dtype'])}</h2>")
        for part in result["parts"]:
            parts.append(f"<h3>{escape(part)}</h3>")
            if result["by_label_count"]:
                parts.append("<p>Texts per second by number of labels, means over the lengths of text:</p>")
                parts.append(_table(*grid_table(run, part)))
            parts.append(_table(CASE_COLUMNS, case_rows(run, part)))
        parts += [f"<p>{escape(name)}: {escape(reason)}</p>" for name, reason in run["absent"].items()]
    parts += [_inline(picture) for picture in pictures]
    parts.append(
        f"<details><summary>JSON</summary><pre>{escape(json.dumps(result, indent=1))}</pre></details>"
    )
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>gliclass-fast bench</title><style>{STYLE}</style>'
    file.write_text(
        f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>", encoding="utf-8"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in columns)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _inline(picture: Path) -> str:
    text = picture.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
