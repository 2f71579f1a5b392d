"""A layer takes few operations, each a kernel on a GPU, but that `norm_linear` of many rows is two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from gliclass_fast import GLiClassModel, ops
from gliclass_fast.runtime.packing import pack
from tests.tiny import ENCODERS, random_prompt, reference_model

POST_NORM = {"linear": 4, "add_norm": 2}
PER_LAYER = {
    "deberta-v2": {**POST_NORM, "disentangled_attention": 1},
    "t5": {"attention": 1, "linear_add": 2, "norm_linear": 2},
    "modernbert": {"linear": 1, "attention": 1, "linear_add": 2, "norm_linear": 1, "layer_norm": 1},
    **{name: {**POST_NORM, "attention": 1} for name in ("bert", "roberta", "xlm-roberta")},
}


def operations(
    encoder: str, layers: int, monkeypatch: pytest.MonkeyPatch, scorer: str = "simple"
) -> Counter[str]:
    calls: Counter[str] = Counter()

    def counted(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return run(*args, **kwargs)

        return wrapper

    def chosen(*_: Any) -> ops.Ops:
        plain = ops.choose_ops("cpu", only="reference")
        names = [field.name for field in fields(plain) if field.name != "chosen"]
        return replace(plain, **{name: counted(name, getattr(plain, name)) for name in names})

    monkeypatch.setattr("gliclass_fast.runtime.loaded.choose_ops", chosen)
    reference = reference_model(encoder, {"num_hidden_layers": layers}, scorer_type=scorer)
    model = GLiClassModel.from_gliclass(reference, device="cpu")
    calls.clear()
    model.loaded(pack([random_prompt(30, 2)]))
    return calls


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_layer_takes_at_most_seven_operations(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more, fewer = (operations(encoder, layers, monkeypatch) for layers in (5, 4))
    assert dict(more - fewer) == PER_LAYER[encoder]
    assert sum(PER_LAYER[encoder].values()) == {"modernbert": 6, "t5": 5}.get(encoder, 7)


@pytest.mark.parametrize(("scorer", "own"), [("simple", 0), ("mlp", 1), ("weighted-dot", 2)])
def test_maps_of_texts_and_of_labels_run_together(
    scorer: str, own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert operations("bert", 2, monkeypatch, scorer)["grouped_linear"] == 2 + own
