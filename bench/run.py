"""Contenders on cases: one process checks their accuracy first, then times them by alternation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from gliclass_fast.bench import cases, peers
from gliclass_fast.bench.cases import Case
from gliclass_fast.bench.contenders import WARM_RUNS, Contender, Engine, Setting, Stock
from gliclass_fast.bench.peers import Absent
from gliclass_fast.bench.selfcheck import ALLOWED_ERROR, logit_error
from gliclass_fast.bench.timing import alternate, as_record
from gliclass_fast.config import dtype_name

ENGINE = "gliclass-fast"
CHECKED = 2  # texts of a case that the reference scores one by one, to compare with
SAMPLED = 32  # texts that one that rounds is checked on, as the error of a single text varies by chance
PATIENCE = {"cpu": 15.0, "cuda": 5.0}  # seconds that a peer may take for a run; longer runs are left out


@dataclass(slots=True)
class Entrant:
    """An entrant is a contender with what is known of it."""

    contender: Contender
    same_model: bool = True  # Its logits shall be the reference's.
    rounds: bool = False  # It rounds on purpose: its error, of more texts, is written down and not judged.
    patience: float = float("inf")
    pace: float = 0.0  # seconds per token that the case before took


@dataclass(slots=True)
class Bench:
    """A bench measures one model in one dtype on one device.

    step: it is called with what is about to be measured. keeps_going: a failure of the engine is written down
    like a peer's, and not raised.
    """

    model: str  # It names a stock shape or a checkpoint.
    device: str
    dtype: torch.dtype
    repeats: int
    step: Callable[[str], None] = lambda name: None
    keeps_going: bool = False
    entrants: dict[str, Entrant] = field(default_factory=dict)
    _setting: Setting = field(init=False)
    _reference: Stock = field(init=False)
    _exact: dict[Case, list[np.ndarray]] = field(init=False)

    def measure(
        self, choose: Callable[[Any], list[Case]], parts: Sequence[str], peer_names: Sequence[str]
    ) -> dict[str, Any]:
        """Returns who took part or why not, and a row per case with errors and milliseconds.

        choose: it gives the cases for a tokenizer; those longer than the model's window are left out.
        """
        too_long: list[Case] = []

        def fitting(tokenizer: Any, window: int) -> list[Case]:
            chosen = choose(tokenizer)
            too_long.extend(case for case in chosen if max(case.lengths) > window)
            return [case for case in chosen if max(case.lengths) <= window]

        chosen = self.prepare(fitting)
        engine: Any = self.entrants[ENGINE].contender
        if self._rounding:
            int8, auto = Engine(self._setting, quantization="int8"), Engine(self._setting, dtype="auto")
            self.entrants[f"{ENGINE}, int8"] = Entrant(int8, rounds=True)
            if auto.model.dtype is torch.bfloat16:
                self.entrants[f"{ENGINE}, bfloat16"] = Entrant(auto, rounds=True)
        absent = self.invite(peer_names)
        found: dict[str, Any] = {"shape": self.model, "dtype": dtype_name(self.dtype)}
        found |= {"ops": engine.model.ops.chosen, "absent": absent}
        found["rows"] = [self.row(case, parts) for case in chosen]
        for case in too_long:
            reason = {ENGINE: f"longer than the model's {engine.pipe.engine.window} tokens"}
            found["rows"].append({**_facts(case), "left_out": reason, **{part: {} for part in parts}})
        return found

    def prepare(self, choose: Callable[[Any, int], list[Case]]) -> list[Case]:
        """Loads the model and the engine, also without graphs, and finds what their logits must be.

        choose: it gives the cases for a tokenizer and the model's window.
        """
        self.step(f"loading {self.model}")
        model, tokenizer = cases.load(self.model)
        self._setting = Setting(model.to(self.device), tokenizer, self.device, self.dtype)
        engine, self._reference = Engine(self._setting), Stock(self._setting, model)
        chosen = choose(tokenizer, engine.pipe.engine.window)
        count = SAMPLED if self._rounding else CHECKED
        self._exact = {
            sample: self._reference.logits(sample, count)
            for case in chosen
            for sample in _samples(case, self._rounding)
        }
        self.entrants = {ENGINE: Entrant(engine)}
        if self.device != "cpu":
            self.entrants[f"{ENGINE}, no graphs"] = Entrant(Engine(self._setting, cuda_graphs=False))
        model.to(self.dtype)  # after the engines are made, which round the weights themselves
        return chosen

    @property
    def _rounding(self) -> bool:
        """Tells whether engines that round are measured too."""
        return self.device == "cpu" and self.dtype is torch.float32

    def invite(self, names: Sequence[str]) -> dict[str, str]:
        """Adds the peers; returns why some are not there."""
        known, absent = peers.available(), {}
        for name in names:
            self.step(f"loading {name}")
            built = peers.build(known[name], self._setting)
            if isinstance(built, Absent):
                absent[name] = built.reason
            else:
                patience = PATIENCE[self.device]
                rounds = self._rounding and getattr(known[name], "ROUNDS", False)
                self.entrants[name] = Entrant(built, known[name].SAME_MODEL, rounds, patience)
        return absent

    def row(self, case: Case, parts: Sequence[str]) -> dict[str, Any]:
        """Returns errors and milliseconds of everybody in one of the cases that were prepared."""
        self.step(case.name)
        row, allowed = _facts(case), ALLOWED_ERROR
        if self.dtype is not torch.float32:  # It may be twice the reference's own error.
            allowed = max(allowed, 2 * self._error(self._reference, case))
        able = {}
        for name, entrant in self.entrants.items():
            if (seconds := entrant.pace * entrant.contender.tokens(case)) > entrant.patience:
                row["left_out"][name] = f"about {seconds:.0f} s a run"
                continue
            if reason := self._reject(name, entrant, case, allowed, row["errors"]):
                row["left_out"][name] = reason
                continue
            able[name] = entrant
        for part in parts:
            functions = {}
            for name, entrant in able.items():
                try:
                    run = getattr(entrant.contender, part)(case)
                    if run is not None:
                        for _ in range(WARM_RUNS[self.device]):  # A peer that fails does so here.
                            run()
                        functions[name] = run
                except Exception as failure:
                    row["left_out"][name] = self._failure(name, failure)
            times = alternate(functions, self.repeats, warmup=0, device=self.device)
            row[part] = as_record(times)
            for name, each in times.items():
                self.entrants[name].pace = each.median / 1e3 / able[name].contender.tokens(case)
        return row

    def _reject(
        self, name: str, entrant: Entrant, case: Case, allowed: float, errors: dict[str, float]
    ) -> str | None:
        """Returns why an entrant is not timed, or None: no time stands beside a wrong answer."""
        if not entrant.same_model:
            return None
        try:
            errors[name] = error = self._error(entrant.contender, case, entrant.rounds)
        except Exception as failure:
            return self._failure(name, failure)
        return None if entrant.rounds or error <= allowed else f"wrong: logit error {error:.1e}"

    def _error(self, contender: Contender, case: Case, rounds: bool = False) -> float:
        """Returns the largest error of its logits."""
        samples, count = _samples(case, rounds), SAMPLED if rounds else CHECKED
        found = [logits for sample in samples for logits in contender.logits(sample, count)]
        exact = [logits for sample in samples for logits in self._exact[sample][:count]]
        return logit_error(found[:count], exact[:count])

    def _failure(self, name: str, failure: Exception) -> str:
        """Returns a peer's failure as a result; the engine's own is one only where the bench keeps going."""
        if name.startswith(ENGINE) and not self.keeps_going:
            raise failure
        return f"failed: {failure!r}"[:300]


def _samples(case: Case, rounds: bool) -> list[Case]:
    """Returns the case, and copies of it with other texts where it has fewer than are compared."""
    more = math.ceil(SAMPLED / len(case.lengths)) if rounds else 1
    return [replace(case, seed=case.seed + number) for number in range(more)]


def _facts(case: Case) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.name, "texts": len(case.lengths), "labels": len(case.labels)}
    return row | {"text_tokens": case.text_tokens, "tokens": case.tokens, "errors": {}, "left_out": {}}
