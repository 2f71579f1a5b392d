"""The note beside a result file: what the file is made with, for those who resume the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gliclass_fast.cli.rows import FileFormatError


class RunNote:
    """Notes what a result file is made with, in a file beside it.

    A run goes on with the options it began with. It may go on in another dtype, on another device and in
    other batches, as they only change how exactly the same model is computed. int8 is one of the options: it
    rounds the weights themselves, and no text can force a run to leave it.
    """

    def __init__(
        self, output: Path, source: str, options: dict[str, Any], dtype: str, skips: bool = False
    ) -> None:
        """Takes what to note.

        Args:
            source: the name of the input, which a reader of the note wants to know.
            options: JSON values by name; None is the value of an option that is not given.
            skips: whether rows that fail have no result.
        """
        self._path, self._options = output.with_name(f"{output.name}.options.json"), options
        self._output, self._source, self._dtypes = output, source, [dtype]
        self.skips = skips

    def check(self, resume: bool) -> None:
        """Raises ValueError where an unfinished run would be lost, or resumed with other options."""
        if not (self._path.exists() and self._output.exists()):
            return
        try:
            before = json.loads(self._path.read_text(encoding="utf-8"))
            finished, options, dtypes = before["finished"], before["options"], before["dtypes"]
        except (ValueError, KeyError, TypeError):
            raise FileFormatError(f"{self._path} is damaged: delete it, or {self._output} as well") from None
        if not resume and not finished:
            raise ValueError(
                f"{self._output} holds the results of an unfinished run: add --resume, or delete it"
            )
        if "precision" in options:  # the name that notes of 0.1.0 have
            options["quantization"] = options.pop("precision")
        other = [name for name in self._options if self._options[name] != options.get(name)]
        if resume and other:
            raise ValueError(
                f"{self._output} was made with other options; --resume continues with the same: "
                f"{', '.join(other)} (see {self._path.name})"
            )
        if resume:
            self._dtypes = list(dict.fromkeys([*dtypes, *self._dtypes]))
            self.skips = self.skips or bool(before.get("skips"))

    def write(self, finished: bool = False) -> None:
        note = {
            "finished": finished, "input": self._source, "options": self._options, "dtypes": self._dtypes,
            "skips": self.skips,
        }  # fmt: skip
        self._path.write_text(json.dumps(note, ensure_ascii=False) + "\n", encoding="utf-8")
