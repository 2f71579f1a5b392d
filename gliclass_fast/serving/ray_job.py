"""A batch job of Ray Data that goes on where it was killed: rows -> small blocks -> actors -> parquet files.

Ray notes the ids of the rows of a block when the file with their results is there, and leaves them out when
the job runs again. A block is the least that is lost, so blocks are small.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.checkpoint import CheckpointConfig

from gliclass_fast.serving.ray_cluster import Actors
from gliclass_fast.serving.ray_data import Classifier

_FAILURES = (ValueError, TypeError, OSError, FloatingPointError)
ROW_ID = "row_id"  # the column that tells rows apart, which the caller's reading gives
MOST_TASKS = 1000  # that read; each is sent to a worker with its pieces


class Rows(Datasource):  # type: ignore[misc]
    """Reads pieces of an input, each of them by `read`, which gives tables with a column row_id."""

    def __init__(self, pieces: Sequence[Any], read: Callable[[Any], Iterable[Any]]) -> None:
        """Takes what is read and how; both are sent to workers, so both can be pickled."""
        super().__init__()
        size = -(-len(pieces) // MOST_TASKS)
        self.parts = [pieces[start : start + size] for start in range(0, len(pieces), size)]
        self._read = read

    def estimate_inmemory_data_size(self) -> int | None:
        """Returns None, as nobody knows."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
        """Returns a task per part, whatever `parallelism` asks for."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_tables, part, self._read), unknown) for part in self.parts]


def _tables(pieces: Sequence[Any], read: Callable[[Any], Iterable[Any]]) -> Iterator[Any]:
    try:
        yield from chain.from_iterable(map(read, pieces))
    except _FAILURES as error:
        raise JobFailedError(error) from error


@dataclass(frozen=True, slots=True)
class BatchJob:
    """Scores rows into a folder of parquet files.

    options: of `Classifier`. output, checkpoint: folders that every machine sees. block_rows: rows of a
    block, and of a file of results; None leaves blocks as they are read, so that a killed job begins anew.
    dropped: columns that results have no more.
    """

    rows: Rows
    options: dict[str, Any]
    output: Path
    checkpoint: Path
    block_rows: int | None = 128
    dropped: tuple[str, ...] = ()
    classifier: type[Classifier] = Classifier

    def run(self, actors: Actors) -> None:
        """Scores all rows that the checkpoint does not name.

        Raises ValueError with the reason, where reading or scoring fails for more than single rows.
        """
        context = DataContext.get_current()
        before = context.checkpoint_config
        context.checkpoint_config = CheckpointConfig(
            ROW_ID, str(self.checkpoint), delete_checkpoint_on_success=False
        )
        try:
            with warnings.catch_warnings():  # of actors that a short job has no use for
                warnings.simplefilter("ignore")
                self._dataset(actors).write_parquet(str(self.output))
        except ray.exceptions.RayError as error:
            raise ValueError(JobFailedError.reason(error)) from error
        finally:
            context.checkpoint_config = before

    def _dataset(self, actors: Actors) -> Any:
        rows = ray.data.read_datasource(self.rows, override_num_blocks=len(self.rows.parts))
        if self.block_rows is not None:
            rows = rows.repartition(target_num_rows_per_block=self.block_rows)
        scored = rows.map_batches(
            _Actor, fn_constructor_args=(self.classifier, {"threads": actors.cpus, **self.options}),
            batch_size=None, batch_format="pyarrow", num_cpus=actors.cpus, num_gpus=actors.gpus or None,
            compute=ActorPoolStrategy(size=actors.count),
        )  # fmt: skip
        return scored.drop_columns(list(self.dropped)) if self.dropped else scored


class _Actor:
    """Scores blocks; what is wrong with the options is raised there, as Ray starts a dead actor again."""

    def __init__(self, classifier: type[Classifier], options: dict[str, Any]) -> None:
        self._classifier: Classifier | Exception
        try:
            self._classifier = classifier(**options)
        except _FAILURES as error:
            self._classifier = error

    def __call__(self, batch: Any) -> Any:
        try:
            if isinstance(self._classifier, Exception):
                raise self._classifier
            return self._classifier(batch)
        except _FAILURES as error:
            raise JobFailedError(error) from error


class JobFailedError(Exception):
    """Carries the message of an error, in one line, from a worker to who runs the job.

    Ray hands on the text of a traceback, but not the error; so it is found in the text.
    """

    def __init__(self, error: object) -> None:
        super().__init__(" ".join(str(error).split()))

    @classmethod
    def reason(cls, error: Exception) -> str:
        """Returns the message in a traceback of Ray's, or its last line where it is of another error."""
        found = re.search(rf"{cls.__name__}: (.+)", str(error))
        return found[1] if found else str(error).strip().split("\n")[-1]
