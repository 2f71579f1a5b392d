"""Tables of what others wrote: no cell holds markup, is cut, or acts on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Column, Table
from rich.text import Text

# Control characters move the cursor or set the title and the clipboard, the others turn the direction of what
# comes after them around. Newlines and tabs are what they are.
_ACTING = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], **options: Any) -> Table:
    """Returns a table whose long words go on in the next line. options: of rich's table."""
    made = Table(*(Column(cell(name), overflow="fold") for name in columns), **options)
    for row in rows:
        made.add_row(*map(cell, row))
    return made


def cell(text: str) -> Text:
    """Returns a text as a cell shows it."""
    return Text(visible(text.replace("\r\n", "\n")))


def visible_json(line: str) -> str:
    """Returns JSON of the same value with what would act on a terminal as escapes; a newline may end it."""
    return _ACTING.sub(lambda found: f"\\u{ord(found.group()):04x}", line)


def visible(text: str) -> str:
    """Returns a text with the characters that would act on a terminal written as Python writes them."""
    return _ACTING.sub(lambda found: repr(found.group())[1:-1], text)
