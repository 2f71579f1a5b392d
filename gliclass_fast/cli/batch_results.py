"""The results of a batch job that goes on: whether its files are whole and its own, before more is scored."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from gliclass_fast.cli.readers import parquet_faults, pyarrow_parquet
from gliclass_fast.cli.rows import FileFormatError

COUNTED = ("row_id", "error", "tokens_cut")  # the columns that are read here, as the end of a job counts them
PENDING = ".pending"  # at the end of a file of ids whose results may be in part; Ray removes them, and these
MOST_PATHS = 3


def check_results(output: Path, checkpoint: Path | None, columns: Iterable[str], anew: str) -> None:
    """Looks at all files of an output, and at those of ids that a checkpoint has for each of them.

    Ray notes the ids of rows in a file `a.parquet` whose results are in `a-0.parquet` and so on, so that
    results which are damaged or lost can be scored again, and others are found to be of no use.

    Args:
        checkpoint: None for a job that has ended, which has none any more.
        columns: those of the results.
        anew: what is to be deleted to begin anew, as an advice says it.

    Raises:
        FileFormatError: a file is damaged, lost or of something else; it says what to do about it.
    """
    done, pending = _noted(checkpoint)
    found: dict[str, list[Path]] = defaultdict(list)
    for path in _files(output):
        base = re.sub(r"-\d+$", "", path.stem)
        if base not in pending:
            found[base].append(path)
    for base, paths in found.items():
        noted = done.get(base)
        ids = [number for path in paths for number in _ids(path, noted, columns, anew)]
        if checkpoint is None or (noted is None and not ids):
            continue
        if noted is None:
            raise FileFormatError(
                f"{paths[0]} holds rows that no file of {checkpoint} names, so they would be there twice: "
                "move it elsewhere, or delete it"
            )
        if sorted(ids) != sorted(_ids_done(noted)):
            raise FileFormatError(
                f"{paths[0]} holds other rows than {noted} names: delete {_listed(noted, *paths)}, and "
                "--resume scores these rows again"
            )
    if lost := [path for base, path in done.items() if base not in found]:
        raise FileFormatError(
            f"the results of {_listed(*lost)} are lost: delete what tells that these rows are done, and "
            f"--resume scores them again; or {anew}"
        )


def _noted(checkpoint: Path | None) -> tuple[dict[str, Path], set[str]]:
    """Returns the files of ids by what names of results begin with, and those beginnings that are no use."""
    if checkpoint is None:
        return {}, set()
    paths = {path.stem: path for path in sorted(checkpoint.glob("*.parquet"))}
    pending = {stem.removesuffix(PENDING) for stem in paths if stem.endswith(PENDING)}
    return {stem: path for stem, path in paths.items() if not stem.endswith(PENDING)}, pending


def _files(output: Path) -> Iterator[Path]:
    """Yields what is read as data at any depth: names that begin with . or _ are none."""
    for path in sorted(output.rglob("*")):
        if not any(name[0] in "._" for name in path.relative_to(output).parts) and not path.is_dir():
            yield path


def _ids(path: Path, noted: Path | None, columns: Iterable[str], anew: str) -> list[int]:
    """Returns the ids of the rows of a file of results."""
    elsewhere = "move it elsewhere, or delete it"
    if path.suffix != ".parquet":
        raise FileFormatError(f"{path} is among the results, but is no .parquet file: {elsewhere}")
    parquet = pyarrow_parquet()
    try:
        with parquet_faults("it cannot be read"), parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            counted = file.read([name for name in COUNTED if name in names])
    except FileFormatError as error:
        again = "and --resume scores its rows again"
        advice = anew if noted is None else f"delete {_listed(path, noted)}, {again}"
        raise FileFormatError(f"{path}, a file of results, is damaged: {advice} ({_line(error)})") from None
    if set(names) != set(columns):
        other = sorted(set(names) ^ set(columns))[0]
        fault = "has" if other in names else "lacks"
        raise FileFormatError(
            f"{path} is no result of this job, as it {fault} a column {other!r}: {elsewhere}"
        )
    return list(counted["row_id"].to_pylist())


def _ids_done(path: Path) -> list[int]:
    try:
        with parquet_faults("it cannot be read"), pyarrow_parquet().ParquetFile(path) as file:
            return list(file.read()["row_id"].to_pylist())
    except (FileFormatError, KeyError) as error:
        raise FileFormatError(
            f"{path}, which tells what is done, is damaged: delete it, and the results whose names begin "
            f"with {path.stem}, and --resume scores these rows again ({_line(error)})"
        ) from None


def _listed(*paths: Path) -> str:
    named, more = list(map(str, paths[:MOST_PATHS])), len(paths) - MOST_PATHS
    return " and ".join([*named, *([f"{more} more"] if more > 0 else [])])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
