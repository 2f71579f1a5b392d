"""A model taken from a live one is a snapshot, and notices what changed when it is called."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import gliclass
import pytest
import torch
from gliclass import streaming

import gliclass_fast
from gliclass_fast import CheckpointError, GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.checkpoint import memory
from tests import families
from tests.accuracy import LOGIT_TOLERANCE, assert_same_results
from tests.sentences import LABELS, TEXTS
from tests.streaming.scripts import tiny_reference
from tests.tiny import ALL_SCORERS, byte_tokenizer, fast_pipeline, reference_model, reference_pipeline

Change = Callable[[Any], object]


@pytest.fixture(autouse=True)
def small_weights_pass_their_memory_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_SMALL", 0)


def scores(pipeline: Any) -> Any:
    return pipeline(TEXTS[:3], LABELS[2], threshold=0.0)


def optimizer_step(model: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(model.parameters(), lr=1e-2).step()


def in_place(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def exchanged_data(model: Any) -> None:
    linear = model.model.classes_projector.linear_2
    linear.weight.data = linear.weight.data * 2


def fused_step(model: Any) -> None:
    """Fused kernels write to tensors without a trace in their versions."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True).step()


CHANGES: dict[str, Change] = {
    "optimizer step": optimizer_step,
    "fused optimizer step": fused_step,
    "in place": in_place,
    "exchanged data": exchanged_data,
    "exchanged parameter": lambda model: setattr(
        model.model.classes_projector.linear_2, "bias", torch.nn.Parameter(torch.ones(32))
    ),
    "loaded tensors": lambda model: model.load_state_dict(
        {name: 1.1 * tensor for name, tensor in model.state_dict().items()}
    ),
    "a module": lambda model: setattr(
        model, "model", copy.deepcopy(reference_model(scorer_type="mlp").model)
    ),
    "the configuration": lambda model: setattr(model.config, "prompt_first", False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_counts_from_the_next_call(name: str) -> None:
    """With "refresh" scores are those of now, with "ignore" those of before, and never a mixture."""
    model = reference_model(scorer_type="mlp")
    in_place(model)  # so that it differs from a fresh one
    reference = reference_pipeline(model)
    fast = fast_pipeline(model)
    kept = fast_pipeline(GLiClassModel.from_gliclass(model, on_change="ignore"))
    strict = fast_pipeline(GLiClassModel.from_gliclass(model, on_change="error"))
    before = scores(reference)
    for each in (fast, kept, strict):
        assert_same_results(scores(each), before)
    CHANGES[name](model)
    after = scores(reference)
    assert after != before
    assert_same_results(scores(fast), after)
    assert_same_results(scores(kept), before)
    with pytest.raises(RuntimeError, match=r"changed since.*refresh\(\)"):
        scores(strict)
    for each in (kept, strict):
        each.refresh()
        assert_same_results(scores(each), after)


@pytest.mark.parametrize(
    "change", [in_place, lambda model: setattr(model.config, "normalize_features", True)]
)
def test_a_change_counts_from_the_next_call_with_tensors_too(change: Change) -> None:
    model = reference_model(scorer_type="mlp")
    ours = GLiClassModel.from_gliclass(model)
    inputs = fast_pipeline(ours).prepare_inputs(TEXTS[:1], LABELS[2])
    before = ours(**inputs).logits
    change(model)
    ours.on_change = "ignore"
    assert torch.equal(ours(**inputs).logits, before)
    ours.on_change = "error"
    with pytest.raises(RuntimeError, match=r"changed since.*refresh\(\)"):
        ours(**inputs)
    ours.on_change = "refresh"
    after = ours(**inputs).logits
    assert not torch.equal(after, before)
    assert torch.equal(after, GLiClassModel.from_gliclass(model)(**inputs).logits)


# a process of its own, as `torch.device("meta")` does not know the `torch.empty` of conftest.py
DRAWN = """
import torch
from tests.families import GLICLASS, reference
from tests.tiny import ALL_SCORERS, fast_pipeline, reference_model
models = {kind: reference(kind) for kind in GLICLASS}
models |= {scorer: reference_model(scorer_type=scorer) for scorer in ALL_SCORERS}
for name, model in models.items():
    before = torch.get_rng_state()
    fast = fast_pipeline(model, max_length=512)
    fast("a text", ["x", "y"])
    fast.refresh()
    if not torch.equal(torch.get_rng_state(), before):
        print(name)
print(len(models))
"""


def test_the_random_numbers_of_training_stay_as_they_were() -> None:
    """An evaluation between two steps must not change which units the next step drops."""
    done = subprocess.run(
        [sys.executable, "-c", DRAWN], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.splitlines() == [str(len(families.GLICLASS) + len(ALL_SCORERS))], done.stderr


@pytest.mark.parametrize("kind", families.GLICLASS)
def test_every_architecture_notices(kind: str) -> None:
    model = families.reference(kind)
    fast, reference = fast_pipeline(model), reference_pipeline(model)
    scores(fast)
    optimizer_step(model)
    assert_same_results(scores(fast), [reference(text, LABELS[2], threshold=0.0)[0] for text in TEXTS[:3]])


def test_nothing_is_built_anew_without_a_change() -> None:
    model = reference_model()
    fast = fast_pipeline(model)
    network = fast.model.loaded
    scores(fast)
    model.config.dropout = 0.5  # an option that the engine does not read
    scores(fast)
    assert fast.model.loaded is network
    fast.refresh()
    assert fast.model.loaded is not network


def test_an_older_network_keeps_its_weights_while_newer_ones_are_built() -> None:
    """Newer networks take the memory of older ones, but not of one that a call still runs on."""
    model = reference_model(scorer_type="mlp")
    fast = fast_pipeline(model)
    held, addresses = fast.model.loaded, set[int]()
    prompts = held.probe()
    before = held.score(prompts).wait()
    for _ in range(6):
        in_place(model)
        assert_same_results(scores(fast), scores(reference_pipeline(model)))
        addresses.add(max(fast.model.loaded.network.parameters(), key=torch.numel).data_ptr())
        assert (held.score(prompts).wait() == before).all()
    assert len(addresses) == 2


def test_a_refresh_that_fails_leaves_the_model_as_it_was() -> None:
    model = reference_model(scorer_type="mlp")
    fast = fast_pipeline(model)
    for _ in range(3):
        in_place(model)
        before, network = scores(fast), fast.model.loaded
        linear = model.model.classes_projector.linear_2
        weight, linear.weight = linear.weight, torch.nn.Parameter(torch.ones(3, 3))
        with pytest.raises(CheckpointError, match="does not fit the configuration"):
            scores(fast)
        assert fast.model.loaded is network
        linear.weight = weight
        fast.model.on_change = "ignore"
        assert_same_results(scores(fast), before)
        fast.model.on_change = "refresh"


def test_calls_of_other_threads_have_old_or_new_weights() -> None:
    model = reference_model(scorer_type="mlp")
    fast = fast_pipeline(model)
    fast.model.on_change = "ignore"  # so that one thread builds networks and the others only run them

    def by_label(found: Any) -> dict[tuple[int, str], float]:
        return {(n, each["label"]): each["score"] for n, row in enumerate(found) for each in row}

    found, expected = [], [by_label(scores(fast))]
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            found.append(by_label(scores(fast)))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        in_place(model)
        fast.refresh()
        expected.append(by_label(scores(reference_pipeline(model))))
    done.set()
    for thread in threads:
        thread.join()
    assert found
    for each in found:
        assert any(each == pytest.approx(wanted, abs=LOGIT_TOLERANCE) for wanted in expected)


def test_what_the_engine_does_not_read_is_no_error() -> None:
    model = reference_model()
    strict = fast_pipeline(GLiClassModel.from_gliclass(model, on_change="error"))
    model.config.my_note = "x"
    assert_same_results(scores(strict), scores(reference_pipeline(model)))
    torch.optim.SGD(reference_model().parameters(), lr=1.0).step()  # of another model
    scores(strict)
    with pytest.raises(ValueError, match="on_change='always' is not supported"):
        strict.model.on_change = "always"


def test_what_a_model_shows_are_copies() -> None:
    model = reference_model(scorer_type="mlp")
    ours = GLiClassModel.from_gliclass(model)
    expected = scores(fast_pipeline(ours))
    for load in (lambda: None, lambda: ours.load_state_dict(ours.state_dict())):
        load()
        with torch.no_grad():
            for tensor in (*ours.state_dict().values(), *ours.parameters()):
                tensor.zero_()
        assert_same_results(scores(reference_pipeline(model)), expected)
        assert_same_results(scores(fast_pipeline(ours)), expected)


@pytest.mark.long
def test_wrapped_models_are_taken() -> None:
    model = reference_model()
    expected = scores(reference_pipeline(model))
    for wrapped in (torch.nn.DataParallel(model), torch.compile(model)):
        fast = ZeroShotClassificationPipeline(wrapped, byte_tokenizer(), device="cpu", progress_bar=False)
        assert_same_results(scores(fast), expected)


@pytest.mark.parametrize("kind", ["bi-encoder", None])
def test_a_call_never_mixes_two_networks(kind: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model changes while a call has read its prompts and labels, and has run nothing yet."""
    model = reference_model(scorer_type="mlp") if kind is None else families.reference(kind)
    fast = fast_pipeline(model)
    encode, changed = fast.engine.reader.encode, []

    def change_after(*given: Any) -> Any:
        prompts = encode(*given)
        if not changed:
            changed.append(True)
            in_place(model)
            fast.model.follow_origin()
        return prompts

    monkeypatch.setattr(fast.engine.reader, "encode", change_after)
    found = scores(fast)
    assert_same_results(
        found, [reference_pipeline(model)(text, LABELS[2], threshold=0.0)[0] for text in TEXTS[:3]]
    )


def test_an_option_of_our_own_configuration_counts_from_the_next_call() -> None:
    model = reference_model()
    fast = fast_pipeline(model)
    fast.model.config.prompt_first = model.config.prompt_first = False
    assert_same_results(scores(fast), scores(reference_pipeline(model)))
    with pytest.raises(gliclass_fast.UnsupportedConfigError, match="no such pooling"):
        fast.model.config.pooling_strategy = "no such pooling"
        scores(fast)
    fast.model.config.pooling_strategy = "first"
    assert_same_results(scores(fast), scores(reference_pipeline(model)))


def test_a_training_loop_with_our_pipeline_as_its_evaluator() -> None:
    model = reference_model()
    pipeline = gliclass_fast.accelerate(reference_pipeline(model))
    inputs = reference_pipeline(model).pipe.prepare_inputs(TEXTS[:3], ["x", "y"], same_labels=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    seen = []
    for _ in range(5):
        model.train()
        loss = model(**inputs, max_num_classes=2).logits.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found = scores(pipeline)
        assert model.training  # to evaluate does not end training, as nothing of the model runs
        assert_same_results(found, scores(reference_pipeline(copy.deepcopy(model))))
        seen.append(found)
    assert len({str(each) for each in seen}) == 5


@pytest.mark.parametrize("kind", [None, "bi-encoder", "encoder-decoder, umT5"])
def test_the_model_within_a_model_may_be_given_and_is_followed(kind: str | None) -> None:
    inner = (reference_model(scorer_type="mlp") if kind is None else families.reference(kind)).model
    reference, ours = reference_pipeline(inner), fast_pipeline(inner)
    for _ in range(2):
        expected = [reference(text, LABELS[2], threshold=0.0)[0] for text in TEXTS]
        assert_same_results(ours(TEXTS, LABELS[2], threshold=0.0), expected)
        with torch.no_grad():
            next(inner.parameters()).mul_(1.1)


def test_accelerated_pipelines_follow_their_settings_and_can_be_pickled() -> None:
    for kind, attribute in (
        (gliclass.ZeroShotClassificationPipeline, "pipe"),
        (gliclass.ZeroShotClassificationWithChunkingPipeline, None),
        (gliclass.pipeline.UniEncoderZeroShotClassificationPipeline, None),
    ):
        model = reference_model(scorer_type="mlp")
        make = lambda kind=kind, model=model: kind(  # noqa: E731
            model, byte_tokenizer(), device="cpu", progress_bar=False
        )
        reference, fast = make(), gliclass_fast.accelerate(make())
        assert isinstance(fast, kind) and gliclass_fast.accelerate(fast) is fast
        for name, value in (("max_length", 40), ("classification_type", "single-label"), ("model", None)):
            for each in (reference, fast):
                target = getattr(each, attribute) if attribute else each
                other = reference_model(scorer_type="mlp", class_token_pooling="average")
                setattr(target, name, other if value is None else value)
            expected = [reference(text, LABELS[2], threshold=0.0)[0] for text in TEXTS]
            assert_same_results(fast(TEXTS, LABELS[2], threshold=0.0), expected)
            twin = pickle.loads(pickle.dumps(fast))
            assert isinstance(twin, kind)
            assert_same_results(twin(TEXTS, LABELS[2], threshold=0.0), expected)
        target = getattr(fast, attribute) if attribute else fast
        target.max_length = 60
        copies = copy.copy(target), pickle.loads(pickle.dumps(target))
        wide, narrow = (target(TEXTS, LABELS[2], threshold=0.0) for target.max_length in (60, 40))
        for each in copies:
            assert_same_results(each(TEXTS, LABELS[2], threshold=0.0), wide)
            each.max_length = 45
            each(TEXTS, LABELS[2])
        assert narrow != wide
        assert_same_results(target(TEXTS, LABELS[2], threshold=0.0), narrow)
        with pytest.raises(TypeError, match="would change nothing"):
            gliclass_fast.accelerate(fast, quantization="int8")
        with pytest.raises(AttributeError, match="label_token is '<<LABEL>>'"):
            getattr(fast, "pipe", fast).label_token = "<<X>>"
            fast(TEXTS, LABELS[2])
        other = make()
        getattr(other, "pipe", other).label_token = "<<X>>"
        with pytest.raises(AttributeError, match="label_token is '<<LABEL>>'"):
            gliclass_fast.accelerate(other)
    with pytest.raises(TypeError, match="accelerate takes a gliclass"):
        gliclass_fast.accelerate(object())
    with pytest.raises(TypeError, match="does not take a StreamingZeroShotClassificationPipeline, whose"):
        gliclass_fast.accelerate(
            streaming.StreamingZeroShotClassificationPipeline(
                tiny_reference(), byte_tokenizer(), device="cpu"
            )
        )
