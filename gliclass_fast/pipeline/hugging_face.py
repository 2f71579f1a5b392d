"""The call shape of Hugging Face: `gliclass_fast.pipeline("zero-shot-classification", model=...)`.

A call of the module `gliclass_fast.pipeline` calls the function of this file, see `make_lazy`. Our own
pipeline takes the same arguments in a call, so that its module imports this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import torch

from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.text.arguments import (
    CONVERSIONS,
    as_list,
    check_switches,
    check_texts,
    checks_names,
    plain_strings,
    whole_number,
)
from gliclass_fast.text.errors import WrongType, WrongValue
from gliclass_fast.text.hypotheses import LABEL_ALONE, hypotheses, kind_for, split_labels

if TYPE_CHECKING:
    from gliclass_fast.pipeline import ZeroShotClassificationPipeline

TASK = "zero-shot-classification"
PASSED_ON = ("prompt", "examples", "rac_examples", "labels_per_pass", "label_permutations", "on_truncation")
MOST_AT_A_TIME = 256  # texts of a stream that are read before their results are given
# what transformers' pipelines take beside this, and what changes nothing here
_WITHOUT_EFFECT = ("framework", "use_fast", "num_workers", "truncation", "padding", "trust_remote_code")
_DEFAULTS = {
    "candidate_labels": None,
    "multi_label": False,
    "hypothesis_template": LABEL_ALONE,
    "top_k": None,
}
# these may be given as None alone
_OTHER_INPUTS = ("feature_extractor", "image_processor", "processor", "pipeline_class")
_PER_TEXT = ("prompt", "examples", "rac_examples")  # in a list of texts
ITS_OWN = frozenset({*_DEFAULTS, "multi_class"})  # one of these in a call makes it one of this shape


class HuggingFacePipeline:
    """Takes the arguments of transformers' `ZeroShotClassificationPipeline`, and gives its results."""

    task = TASK
    _classify: Callable[..., Any] | None = None  # what answers in the place of `classifier`

    def __init__(self, classifier: ZeroShotClassificationPipeline, **defaults: Any) -> None:
        """Takes the pipeline that does the work, and arguments for every call."""
        self.classifier, self._defaults = classifier, {**_DEFAULTS, **defaults}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.classifier!r})"

    @property
    def device(self) -> torch.device:
        return self.classifier.device

    @property
    def model(self) -> GLiClassModel:
        return self.classifier.model

    @property
    def tokenizer(self) -> Any:
        return self.classifier.tokenizer

    @checks_names
    def __call__(self, sequences: Any, *labels: Any, **arguments: Any) -> Any:
        """Classifies texts.

        Args:
            sequences: a string, a list (or tuple, array, column), or a stream: an iterator, a generator, a
                dataset, or whatever else can be iterated.
            candidate_labels: a list, or a string of labels that commas separate; also the second argument.
            multi_label: whether every label has a score of its own; else the scores add up to 1. One label
                alone always has a score of its own.
            hypothesis_template: what the model reads for every label, with {} in its place. The default is
                "{}", the label alone, as GLiClass was trained; results have the plain label always.
            top_k: so many of the best labels; default: all.
            batch_size: the number of texts of a stream that are read before their results come; default: 8,
                and then more and more, up to MOST_AT_A_TIME. It changes no score.
            arguments: those above, and those of PASSED_ON, which mean what they mean in a call of
                `ZeroShotClassificationPipeline`. The texts of a stream share prompt and examples.

        Returns:
            {"sequence": str, "labels": [str], "scores": [float]}, the best label first; a list of them for a
            list, and a generator for a stream.

        Raises:
            TypeError, ValueError: an argument is not as described above.
        """
        if labels:
            if len(labels) > 1 or "candidate_labels" in arguments:
                raise WrongType(f"the labels are given twice, or more than texts and labels: {labels}")
            arguments["candidate_labels"] = labels[0]
        arguments = _understood({**self._defaults, **arguments})
        given = {name: arguments.pop(name) for name in _DEFAULTS}
        batch_size = arguments.pop("batch_size", None)
        if unknown := [name for name in arguments if name not in PASSED_ON]:
            raise WrongType(
                f"unknown argument {unknown[0]!r}; known: {', '.join((*_DEFAULTS, *PASSED_ON))}. (The call "
                f"has Hugging Face's shape, as it has one of {', '.join(_DEFAULTS)}.)"
            )
        names = _candidates(given["candidate_labels"])
        top = None if given["top_k"] is None else whole_number(given["top_k"], "top_k")
        check_switches(multi_label=given["multi_label"])
        kind = kind_for(len(names), bool(given["multi_label"]))
        keys, descriptions = names, hypotheses(given["hypothesis_template"], names)
        if len(set(names)) < len(names):  # Two labels may be alike, and yet each has its own score.
            keys = [f"{number}. {name}" for number, name in enumerate(names, 1)]
            texts_of = descriptions or {name: name for name in names}
            descriptions = {key: texts_of[name] for key, name in zip(keys, names, strict=True)}
        arguments |= {"classification_type": kind, "label_descriptions": descriptions}

        def run(part: list[Any], first: int = 0) -> list[dict[str, Any]]:
            texts = check_texts(part, first)
            classify = self._classify or self.classifier
            scored = classify(texts, keys, return_hierarchical=True, first_text=first, **arguments)
            return [
                _result(text, names, [own[key] for key in keys], top)
                for text, own in zip(texts, scored, strict=True)
            ]

        if isinstance(sequences, str):
            return run([sequences])[0]
        if _is_stream(sequences):
            arguments |= _shared(arguments)
            size = None if batch_size is None else whole_number(batch_size, "batch_size")
            return _streamed(iter(sequences), run, size)
        return run(as_list(sequences, "sequences", "a string, a list of strings or a stream of them"))


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    device: str | torch.device | int | None = None,
    **options: Any,
) -> HuggingFacePipeline:
    """Loads a model for zero-shot classification.

    Args:
        task: "zero-shot-classification", the one that there is.
        model: a path, a repository id, or a loaded model.
        config: the configuration of the model in place of its own, or its folder.
        tokenizer: default: the model's own, if `model` is a path or repository id.
        device: a name, a number (-1: the CPU), or None for the GPU where there is one.
        options: those of `ZeroShotClassificationPipeline`, among them the model's (dtype, torch_dtype,
            model_kwargs with more of them), and defaults for the arguments of a call: candidate_labels,
            multi_label, hypothesis_template, top_k and batch_size.

    Raises:
        TypeError, ValueError: the task is another, there is no model, or an option is not valid.
    """
    if task not in (None, TASK):
        raise WrongValue(f"unknown task {task!r}: this engine has {TASK!r} alone")
    if model is None:
        raise WrongType("give model=: a path, a repository id or a loaded model")
    more = options.pop("model_kwargs", None) or {}
    if config is not None:
        options["config"] = config
    options = _understood({"progress_bar": False, **options, **more})
    options = {name: each for name, each in options.items() if name not in _OTHER_INPUTS or each is not None}
    of_calls = (*_DEFAULTS, "batch_size")
    defaults = {name: options.pop(name) for name in list(options) if name in of_calls}
    from gliclass_fast.pipeline import ZeroShotClassificationPipeline  # which imports this file

    classifier = ZeroShotClassificationPipeline(model, tokenizer, device=device, **options)
    return HuggingFacePipeline(classifier, **defaults)


def answer(
    classify: Callable[..., Any], classifier: ZeroShotClassificationPipeline, *positional: Any, **named: Any
) -> Any:
    """Answers a call of our own pipeline that has one of the arguments ITS_OWN.

    With `candidate_labels` it is a call of transformers', whose scores add up to 1 by default. With `labels`,
    the pipeline's own `classification_type` says whether every label has a score of its own.
    """
    defaults = {}
    if "candidate_labels" not in named:
        defaults["multi_label"] = classifier.classification_type == "multi-label"
    for ours, theirs in (("texts", "sequences"), ("labels", "candidate_labels")):
        if ours in named and theirs not in named:
            named[theirs] = named.pop(ours)
    given = bool(positional) + ("sequences" in named) + ("texts" in named)
    if given != 1:
        raise WrongType("the texts are given twice" if given else "give texts, as the first argument")
    own = HuggingFacePipeline(classifier, **defaults)
    own._classify = partial(classify, classifier)  # that of a subclass has run already
    return own(*positional, **named)


def _understood(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments without those that have no effect here, and with an older name replaced."""
    kept = {name: value for name, value in arguments.items() if name not in _WITHOUT_EFFECT}
    if "multi_class" in kept:
        kept["multi_label"] = kept.pop("multi_class")
    return kept


def _candidates(labels: Any) -> list[str]:
    if isinstance(labels, str):
        labels = split_labels(labels)
    names = plain_strings(
        as_list(labels, "candidate_labels", "a list, or a string with commas"), "candidate_labels"
    )
    if not names:
        raise WrongValue("you must include at least one label in candidate_labels")
    return names


def _result(text: str, names: list[str], scores: list[float], top: int | None) -> dict[str, Any]:
    best = sorted(range(len(names)), key=scores.__getitem__, reverse=True)[:top]
    return {"sequence": text, "labels": [names[n] for n in best], "scores": [scores[n] for n in best]}


def _is_stream(sequences: Any) -> bool:
    """Says whether results come one by one: whatever can be iterated and is no list of some kind."""
    if isinstance(sequences, (list, tuple, dict, set, frozenset, bytes, bytearray)):
        return False
    if any(hasattr(sequences, name) for name in ("columns", *CONVERSIONS)):
        return False
    return hasattr(sequences, "__iter__") or hasattr(sequences, "__getitem__")


def _shared(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the examples of a stream as every part of it may read them again.

    Raises WrongValue for a prompt or examples per text, as they would begin anew with every part.
    """
    found = {}
    for name in _PER_TEXT:
        given = arguments.get(name)
        if given is None or isinstance(given, str):
            continue
        found[name] = as_list(given, name, "one for all texts of a stream")
        several = any(each is not None and not isinstance(each, Mapping) for each in found[name])
        if name == "prompt" or several:
            raise WrongValue(f"the texts of a stream share their {name}: give one for all of them")
    return found


def _streamed(texts: Iterator[Any], run: Any, size: int | None) -> Iterator[dict[str, Any]]:
    """Yields results as they come; a part of the stream is in memory at a time."""
    first = 0
    for number in count():
        part = list(islice(texts, size or min(8 << number, MOST_AT_A_TIME)))
        if not part:
            return
        yield from run(part, first)
        first += len(part)
