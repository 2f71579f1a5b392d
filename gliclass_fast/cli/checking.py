"""What check compares: a checkpoint with the reference, or with itself in int8."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from gliclass_fast.bench import selfcheck
from gliclass_fast.checkpoint.files import resolve_folder
from gliclass_fast.checkpoint.lora import adapter_place
from gliclass_fast.cli.console import errors, fail, screen
from gliclass_fast.cli.device import quiet, usable
from gliclass_fast.cli.options import labels_of, opened
from gliclass_fast.cli.readers import read_rows
from gliclass_fast.cli.rows import Reading
from gliclass_fast.cli.tables import cell, table
from gliclass_fast.pipeline import ZeroShotClassificationPipeline
from gliclass_fast.runtime.model import GLiClassModel


def check_quantized(
    model: str, quantization: str, texts: Path | None, labels: list[str] | None, column: str
) -> None:
    """Compares decisions in `quantization` with those in float32; ends with 1 where too many differ."""
    quiet()
    rows = _texts(texts, column) if texts else list(selfcheck.TEXTS)
    given = labels_of(labels, None) if labels else list(selfcheck.LABELS)
    with errors.status(f"scoring {len(rows)} texts in float32 and in {quantization}"):
        found = selfcheck.compare_quantized(model, model, quantization, rows, given)
    share = found.changed / found.pairs
    verdict = (
        f"{found.changed} of {found.pairs} decisions differ from float32 ({share:.2%}; "
        f"{selfcheck.ALLOWED_CHANGES:.0%} is allowed), largest score difference {found.error:.3f}"
    )
    if share > selfcheck.ALLOWED_CHANGES:
        fail(f"{quantization} is not good enough here: {verdict}", code=1)
    screen.print(f"{quantization} holds on these texts: {verdict}", markup=False, soft_wrap=True)


def _texts(path: Path, column: str) -> list[str]:
    """Returns the texts of a file; ValueError names a row without one."""
    with opened("--texts", path):
        rows = read_rows(path, Reading(column))
    if not rows:
        raise ValueError(f"{path} has no texts")
    if bad := next((row for row in rows if row.error is not None), None):
        raise ValueError(f"{path}, {bad.place}: {bad.error}")
    return [str(row.text) for row in rows]


def check_with_reference(model: str, device: str | None) -> None:
    """Prints a checkpoint's configuration and compares its scores; ends with 1 where they differ."""
    quiet()
    with errors.status(cell(f"loading {model}")):
        loaded = GLiClassModel.from_pretrained(model, dtype="float32", device=usable(device))
        pipeline = ZeroShotClassificationPipeline(loaded, model, device=loaded.device, progress_bar=False)
    screen.print(_configuration(model, loaded))
    try:
        with errors.status("comparing with the reference"):
            found = selfcheck.compare_with_reference(pipeline, model)
    except selfcheck.ReferenceMissingError as error:
        screen.print(f"loads; not compared: {error}", markup=False, soft_wrap=True)
        return
    verdict = f"largest logit error {found.error:.1e}, {found.changed} of {found.pairs} decisions differ"
    if not found.error <= selfcheck.ALLOWED_ERROR or found.changed:
        fail(f"does not match the reference: {verdict}", code=1)
    screen.print(f"matches the reference: {verdict}", markup=False, soft_wrap=True)


def _configuration(model: str, loaded: GLiClassModel) -> Table:
    adapter = adapter_place(resolve_folder(model))
    facts: dict[str, Any] = loaded.loaded.network.description()
    if adapter is not None:
        facts["adapter"] = f"LoRA, merged, of {adapter}"
    own = len(facts)
    for key, value in asdict(loaded.loaded.config).items():
        facts |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    made = table(["option", "value"], [[key, str(value)] for key, value in facts.items()], title=cell(model))
    for row in made.rows[:own]:
        row.style = "bold"
    return made
