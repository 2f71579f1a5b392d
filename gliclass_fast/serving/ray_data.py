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
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gliclass_fast.demo import PATH
from gliclass_fast.text.arguments import as_list, plain_string, whole_number
from gliclass_fast.text.arrow import values_of
from gliclass_fast.text.errors import ArgumentError, WrongValue
from gliclass_fast.text.predictions import best_first

FOUND = ("labels", "scores", "tokens_cut", "error")  # the columns that a batch gets


class Found(NamedTuple):
    """Holds what a row gets: labels, best first, with their scores, or the error that it failed with."""

    labels: list[str] | None
    scores: list[float] | None
    tokens_cut: int = 0  # tokens that the window had no room for
    error: str | None = None


# what a call of the pipeline takes beside the texts, but this class does not
_REFUSED = {
    "texts": "they are those of the batch", "labels": "give it beside call",
    "top_k": "give it beside call", "first_text": "messages name no texts here",
    "return_info": "the column tokens_cut has what it gives",
    "return_hierarchical": "results are lists of labels and of scores",
}  # fmt: skip
_ONE_FOR_ALL = ("threshold", "classification_type", "prompt", "adapter_ids")  # as a list they are per text
_EXAMPLES = ("examples", "rac_examples")


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
            labels: for all texts, as the pipeline takes them; not per text, as a batch may have any size.
            column: the column of the texts.
            top_k: at most so many labels a text, the best.
            threads: threads of the CPU; None leaves them to Ray, which gives an actor one for each of its
                num_cpus.
            call: options of a call of the pipeline, as threshold and prompt, which are for all texts. Those
                that change the form of its results are none of these.
            options: of `ZeroShotClassificationPipeline`, as max_length, device, dtype and quantization.

        Raises:
            ValueError, TypeError: an option is wrong, or the checkpoint is.
        """
        from gliclass_fast.pipeline import ZeroShotClassificationPipeline
        from gliclass_fast.runtime.device import use_threads

        self._labels, self._call = _shared_labels(labels), _shared_call(call or {})
        self._top_k = None if top_k is None else whole_number(top_k, "top_k")
        use_threads(threads)
        self._column = column
        self._pipeline = ZeroShotClassificationPipeline(
            model, **{"progress_bar": False, "on_truncation": "ignore", **options}
        )

    def __call__(self, batch: Any) -> Any:
        """Returns the batch with four more columns.

        labels: the labels at or above the threshold, best first; null where the row failed. scores: theirs.
        tokens_cut: the tokens that the window had no room for. error: why the row failed, else null.

        Columns of these names in the batch are replaced.

        Args:
            batch: a dict of arrays, with batch_format="pandas" a data frame or, with batch_format="pyarrow",
                a table, which keeps nulls and types as they are. A row whose `error` is a string that
                is not empty keeps it and is not scored; whatever else stands there is none.

        Raises:
            ValueError: there is no such column, or more than one.
            ValueError, TypeError: an option of the call is wrong, so that any text would fail.
        """
        self._check_column(list(getattr(batch, "column_names", batch)))
        if hasattr(batch, "column_names"):  # a table
            errors = values_of(batch["error"]) if "error" in batch.column_names else None
            return _with_columns(batch, self.score(values_of(batch[self._column]), errors))
        found = self.score(list(batch[self._column]), batch.get("error"))
        arrays = {name: _array(found, name) for name in FOUND}
        return {**batch, **arrays} if isinstance(batch, dict) else batch.assign(**arrays)

    def _check_column(self, names: list[str]) -> None:
        if (count := names.count(self._column)) > 1:
            raise WrongValue(f"the batch has {count} columns named {self._column!r}")
        if not count:
            found = ", ".join(map(str, names)) or "nothing"
            raise WrongValue(
                f"the batch has no column {self._column!r} but: {found}. Choose one with column="
            )

    def score(self, texts: Sequence[Any], errors: Sequence[Any] | None = None) -> list[Found]:
        """Returns what is found for every text; one that is null or no string is a row that fails."""
        from gliclass_fast.pipeline.halving import in_halves

        before = [None] * len(texts) if errors is None else list(errors)
        found = [
            _failed(str(error)) if isinstance(error, str) and error else _fault(text)
            for text, error in zip(texts, before, strict=True)
        ]
        good = [place for place, each in enumerate(found) if each is None]
        scored = in_halves([str(texts[place]) for place in good], 0, self._scored, _failed) if good else []
        for place, each in zip(good, scored, strict=True):
            found[place] = each
        return [each for each in found if each is not None]

    def _scored(self, texts: list[str], first: int) -> list[Found]:
        found, infos = self._pipeline(texts, self._labels, **self._call, first_text=first, return_info=True)
        return [self._found(each, info.tokens_cut) for each, info in zip(found, infos, strict=True)]

    def _found(self, predictions: list[dict[str, Any]], cut: int) -> Found:
        best = best_first(predictions)[: self._top_k]
        return Found([each["label"] for each in best], [each["score"] for each in best], cut)


def _shared_labels(labels: Any) -> Any:
    if isinstance(labels, Mapping):
        return labels
    labels = as_list(labels, "labels", "a list or a nested dict")
    _refuse_per_text("labels", any(map(_is_listed, labels)))
    return labels


def _shared_call(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a call; ArgumentError for those that give results of other rows or forms."""
    from gliclass_fast.pipeline import ZeroShotClassificationPipeline
    from gliclass_fast.pipeline.hugging_face import ITS_OWN

    call = dict(given)
    for name in call:
        if name in _REFUSED or name in ITS_OWN:
            reason = _REFUSED.get(name, "it belongs to a call whose results have another form")
            raise WrongValue(f"call cannot have {name!r}: {reason}")
    takes = signature(ZeroShotClassificationPipeline.__call__)
    try:
        takes.bind_partial(**call)
    except TypeError as error:
        names = ", ".join(name for name in takes.parameters if name not in ("self", *_REFUSED))
        raise WrongValue(f"call {error}; it takes {names}") from None
    for name in _ONE_FOR_ALL:
        value = call.get(name)
        _refuse_per_text(f"call[{name!r}]", _is_listed(value) and not isinstance(value, Mapping))
    for name in _EXAMPLES:
        if call.get(name) is not None:
            call[name] = as_list(call[name], f"call[{name!r}]", "a list of dicts")
            lists = [each for each in call[name] if not isinstance(each, Mapping)]
            _refuse_per_text(f"call[{name!r}]", any(map(_is_listed, lists)))
    return call


def _is_listed(value: Any) -> bool:
    return (
        hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) and getattr(value, "ndim", 1) > 0
    )


def _refuse_per_text(name: str, is_per_text: bool) -> None:
    if is_per_text:
        raise WrongValue(f"{name} has an entry per text: give one for all, as batches are of any size")


def _is_missing(value: Any) -> bool:
    """Tells whether a value is one that stands in tables where there is none: None, NaN, NaT, pandas.NA."""
    if value is None or type(value).__name__ == "NAType":  # pandas need not be installed
        return True
    differs = value != value  # as only NaN and NaT do from themselves
    return isinstance(differs, (bool, np.bool_)) and bool(differs)


def _fault(text: Any) -> Found | None:
    if _is_missing(text):
        return _failed("the text is null")
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
