"""Adapters are data to the graph runner: a recording serves any mix of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gliclass_fast import GLiClassModel, ops
from tests.adapters import adapted
from tests.runtime.recorder import Again, with_graphs
from tests.tiny import random_prompt, reference_model


@pytest.mark.slow
def test_one_recording_serves_any_mix_of_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters are data; a store that moves voids the recordings, and without adapters another one runs."""
    choose = ops.choose_ops

    def chosen(*given: Any) -> ops.Ops:
        changed = {name: ops.implementation(name, "triton") for name in ("lora_store", "lora_add")}
        # the layer's one call reads the stores of the compiled kernels, as `choose_ops` knows
        changed["bind_feed_forward"] = ops.implementation("bind_feed_forward", "reference")
        return replace(choose(*given), **changed)

    monkeypatch.setattr("gliclass_fast.runtime.loaded.choose_ops", chosen)
    reference, recorder = reference_model("bert", scorer_type="mlp"), Again()
    merged = {name: adapted(reference, tmp_path / name, seed, r=8) for seed, name in enumerate("abc")}
    wide = adapted(reference, tmp_path / "wide", 9, r=9)
    model = with_graphs(GLiClassModel.from_gliclass(reference, device="cpu"), recorder)
    for name in "abc":
        model.load_adapter(name, tmp_path / name)
    wanted = {name: GLiClassModel.from_gliclass(each, device="cpu") for name, each in merged.items()}
    wanted |= {"": GLiClassModel.from_gliclass(reference, device="cpu")}

    def check(names: Sequence[str]) -> None:
        prompts = [random_prompt(12, 2, seed) for seed in range(len(names))]
        own = [model.adapters[name] if name else None for name in names]
        given = [replace(each, adapter=adapter) for each, adapter in zip(prompts, own, strict=True)]
        found = model.loaded.score(given).wait()[0]
        for n, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
            expected = wanted[name].loaded.score([prompt]).wait()[0]
            np.testing.assert_allclose(found[2 * n : 2 * n + 2], expected, atol=1e-5)

    for names in ("ab", "ca", ["", "b"], "bb", "ac"):  # the first runs, the second is recorded
        check(list(names))
    assert recorder.recorded == 2
    check(["", ""])
    check(["", ""])
    assert recorder.recorded == 4
    model.load_adapter("wide", tmp_path / "wide")
    wanted["wide"] = GLiClassModel.from_gliclass(wide, device="cpu")
    check(["wide", "a"])  # its rank makes the stores grow
    assert recorder.alive() == 0
    model.unload_adapter("c")  # which empties its slot
    for names in (["wide", "a"], ["a", "b"], ["b", "wide"]):
        check(names)
