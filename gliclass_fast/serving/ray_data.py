"""A class for `map_batches` of Ray Data: batches get the labels of their texts, with scores.

    import ray
    from gliclass_fast.serving.ray_data import Classifier

    scored = ray.data.read_parquet("reviews").map_batches(
        Classifier, fn_constructor_kwargs={"labels": ["praise", "complaint"]},
        batch_size=128, batch_format="pyarrow", num_cpus=1, compute=ray.data.ActorPoolStrategy(size=2),
    )

Ray makes one in every actor. torch is imported there alone, so that a job starts soon. Ray is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gliclass_fast.demo import PATH

FOUND = ("labels", "scores", "tokens_cut", "error")  # the columns that a batch gets


class Found(NamedTuple):
    """Holds what a row gets: labels, best first, with their scores, or the error that it failed with."""

    labels: list[str] | None
    scores: list[float] | None
    tokens_cut: int = 0  # tokens that the window had no room for
    error: str | None = None


def _failed(error: str) -> Found:
    return Found(None, None, error=error)


class Classifier:
    """Adds the columns labels, scores, tokens_cut and error to a batch; a row that fails has its error."""

    def __init__(
        self,
        model: str | Path = PATH,
        *,
        labels: Any,
        column: str = "text",
        top_k: int | None = None,
        threads: int | None = None,
        call: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Loads the model; Ray does it once in every actor.

        Args:
            model: a checkpoint folder, which every machine has, or a repository id.
            labels: for all texts, as the pipeline takes them.
            column: the column of the texts.
            top_k: at most so many labels a text, the best.
            threads: threads of the CPU; None leaves them to Ray, which gives an actor one for each of its
                num_cpus.
            call: options of a call of the pipeline, as threshold and prompt.
            options: of `ZeroShotClassificationPipeline`, as max_length, device, dtype and quantization.

        Raises:
            ValueError, TypeError: an option is wrong, or the checkpoint is.
        """
        from gliclass_fast.pipeline import ZeroShotClassificationPipeline
        from gliclass_fast.runtime.device import use_threads

        use_threads(threads)
        self._labels, self._column, self._top_k, self._call = labels, column, top_k, dict(call or {})
        self._pipeline = ZeroShotClassificationPipeline(
            model, **{"progress_bar": False, "on_truncation": "ignore", **options}
        )

    def __call__(self, batch: Any) -> Any:
        """Returns the batch with four more columns.

        labels: the labels at or above the threshold, best first; null where the row failed. scores: theirs.
        tokens_cut: the tokens that the window had no room for. error: why the row failed, else null.

        Args:
            batch: a dict of arrays or, with batch_format="pyarrow", a table, which keeps nulls and types as
                they are. A row with an `error` already keeps it and is not scored.

        Raises:
            KeyError: there is no such column.
            ValueError, TypeError: an option of the call is wrong, so that any text would fail.
        """
        if isinstance(batch, dict):
            found = self.score(batch[self._column], batch.get("error"))
            return {**batch, **{name: _array(found, name) for name in FOUND}}
        errors = batch["error"].to_pylist() if "error" in batch.column_names else None
        found = self.score(batch[self._column].to_pylist(), errors)
        return _with_columns(batch, found)

    def score(self, texts: Sequence[Any], errors: Sequence[Any] | None = None) -> list[Found]:
        """Returns what is found for every text; one that is null or no string is a row that fails."""
        from gliclass_fast.engine.halving import in_halves

        before = [None] * len(texts) if errors is None else list(errors)
        found = [_failed(error) if error else _fault(text) for text, error in zip(texts, before, strict=True)]
        good = [place for place, each in enumerate(found) if each is None]
        scored = in_halves([str(texts[place]) for place in good], 0, self._scored, _failed) if good else []
        for place, each in zip(good, scored, strict=True):
            found[place] = each
        return [each for each in found if each is not None]

    def _scored(self, texts: list[str], first: int) -> list[Found]:
        found, infos = self._pipeline(texts, self._labels, **self._call, first_text=first, return_info=True)
        return [self._found(each, info.tokens_cut) for each, info in zip(found, infos, strict=True)]

    def _found(self, predictions: list[dict[str, Any]], cut: int) -> Found:
        best = sorted(predictions, key=lambda each: -each["score"])[: self._top_k]
        return Found([each["label"] for each in best], [each["score"] for each in best], cut)


def _fault(text: Any) -> Found | None:
    if text is None:
        return _failed("the text is null")
    from gliclass_fast.text.arguments import plain_string
    from gliclass_fast.text.errors import ArgumentError

    try:
        plain_string(text, "the text")
    except ArgumentError as error:
        return _failed(str(error))
    return None


def _array(found: list[Found], name: str) -> np.ndarray:
    values = [getattr(each, name) for each in found]
    if name == "tokens_cut":
        return np.array(values, np.int32)
    array = np.empty(len(values), object)  # numpy.array would make a matrix of lists of one length
    array[:] = values
    return array


def _with_columns(table: Any, found: list[Found]) -> Any:
    import pyarrow

    kinds = {
        "labels": pyarrow.list_(pyarrow.string()), "scores": pyarrow.list_(pyarrow.float32()),
        "tokens_cut": pyarrow.int32(), "error": pyarrow.string(),
    }  # fmt: skip
    for name in FOUND:
        column = pyarrow.array([getattr(each, name) for each in found], kinds[name])
        place = table.schema.get_field_index(name)
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    return table
