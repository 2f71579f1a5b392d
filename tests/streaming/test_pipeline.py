"""Streams give the reference's answers after every chunk, and a call that fails changes nothing."""

from __future__ import annotations

import copy
import pickle
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gliclass import streaming as reference

from gliclass_fast import ArgumentError
from gliclass_fast import streaming as ours
from gliclass_fast.streaming import StreamingZeroShotClassificationPipeline
from tests.accuracy import assert_same_results
from tests.sentences import TEXTS
from tests.streaming.scripts import assert_same_answers, streaming, tiny_reference
from tests.tiny import QWEN3, SHOT, byte_tokenizer, fast_pipeline, loaded, reference_model

LABELS = ["sport", "art", "x"]
TREE = {"topic": ["sport", "art"], "mood": ["good"]}
Answers = list[dict[str, Any]]
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Any], Any]]] = {
    # name -> (options of the model, settings and arguments, the strategy from a package)
    "plain": ({}, {}, lambda package: None),
    "limit": ({}, {"max_cache_len": 40}, lambda package: None),
    "window": ({}, {}, lambda package: package.SlidingWindowStrategy(24)),
    "limit below the window": (
        {"use_calibrator": True},
        {"max_cache_len": 20},
        lambda package: package.SlidingWindowStrategy(33),
    ),
    "composed": (
        {"recurrent_steps": 3, "normalize_features": True},
        {"max_cache_len": 64},
        lambda package: package.ComposedStrategy(
            package.EveryNTokensStrategy(20), package.SlidingWindowStrategy(17)
        ),
    ),
}
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"threshold": 0.0, **SHOT},
    {"classification_type": "single-label", "prompt": "Say: "},
    {"return_hierarchical": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_chunk_equals_the_reference(kind: str) -> None:
    """Each kind of arguments has ten texts in random chunks, in sessions that come and go."""
    options, settings, strategy = KINDS[kind]
    model = tiny_reference(**options)
    theirs = reference.StreamingZeroShotClassificationPipeline(
        model, byte_tokenizer(), device="cpu", default_strategy=strategy(reference), **settings
    )
    mine = streaming(model, default_strategy=strategy(ours), **settings)
    rng = random.Random(kind)
    for arguments in ARGUMENTS:
        labels = TREE if "return_hierarchical" in arguments else LABELS
        theirs.clear_sessions()
        mine.clear_sessions()
        open_texts: dict[str, str] = {}
        for step in range(10):
            open_texts[f"s{step}"] = " ".join(rng.sample("".join(TEXTS).split(), 12))
            names = [name for name in open_texts if rng.random() < 0.8] or list(open_texts)[:1]
            chunks = []
            for name in names:
                size = rng.randint(0, 30)
                chunks.append(open_texts[name][:size])
                open_texts[name] = open_texts[name][size:]
            open_texts = {name: open_texts[name] for name in names if open_texts[name]}
            assert_same_answers(
                mine(chunks, labels, session_ids=names, **arguments),
                theirs(chunks, labels, session_ids=names, **arguments),
            )
            assert mine.active_sessions == theirs.active_sessions


def test_a_stream_equals_the_whole_text_where_the_scorer_does_not_see_the_separator() -> None:
    model = loaded(tiny_reference())
    stream = StreamingZeroShotClassificationPipeline(
        model, byte_tokenizer(), device="cpu", score_leading_sep=False
    )
    classic = fast_pipeline(model)
    for text in filter(None, TEXTS):
        for end in range(11, len(text) + 11, 11):
            [found] = stream(text[end - 11 : end], LABELS, session_ids=text, threshold=0.0, prompt="P: ")
            assert_same_results(found["predictions"], classic(text[:end], LABELS, 0.0, prompt="P: ")[0])


def test_sessions_of_a_call_and_batches_do_not_change_each_other() -> None:
    names = [f"s{number}" for number in range(len(TEXTS))]
    together, small = streaming(), streaming(batch_tokens=40)
    alone = {name: streaming() for name in names}
    for _ in range(2):
        both = [each(TEXTS, LABELS, session_ids=names) for each in (together, small)]
        one = [
            alone[name](text, LABELS, session_ids=name)[0] for name, text in zip(names, TEXTS, strict=True)
        ]
        assert_same_answers(both[0], one)
        assert_same_answers(both[1], one)


def test_markers_in_a_chunk_are_ordinary_text() -> None:
    found = streaming()("a<<SEP>> b<<LABEL>>", ["x<<LABEL>>", "y"], session_ids="s", threshold=0.0)
    assert [each["label"] for each in found[0]["predictions"]] == ["x<<LABEL>>", "y"]


def test_sessions_can_stay_leave_and_change_their_strategy() -> None:
    pipeline = streaming(drop_absent=False)
    pipeline(["a", "b", "c"], LABELS, session_ids=["a", "b", "c"])
    pipeline("bb", LABELS, session_ids="b")
    assert pipeline.active_sessions == ["a", "b", "c"]
    assert pipeline.delete_session("a", "z", "a") == ["a"]
    counted = ours.EveryNTokensStrategy(3)
    pipeline.set_session_strategy("b", counted)
    triggered = [pipeline("xy", LABELS, session_ids="b")[0]["triggered"] for _ in range(3)]
    assert triggered == [False, True, False]
    assert not counted.should_classify(2, 0, "")  # the session has a copy of its own
    with pytest.raises(KeyError, match="there is no session 'a'"):
        pipeline.set_session_strategy("a", counted)
    pipeline.clear_sessions()
    assert pipeline.active_sessions == [] and pipeline.sessions.pool.used_pages == 0
    pipeline("a", LABELS, session_ids="a")
    assert StreamingZeroShotClassificationPipeline.__call__(pipeline, [], [], session_ids=[]) == []
    assert pipeline.active_sessions == ["a"]
    dropping = streaming()
    dropping("a", LABELS, session_ids="a")
    assert dropping([], [], session_ids=[]) == [] and dropping.active_sessions == []


def test_least_recently_used_sessions_make_room_and_say_so() -> None:
    pipeline = streaming(drop_absent=False, max_cached_tokens=30)
    for name in "abc":
        pipeline("0123456789", LABELS, session_ids=name)
    pipeline("x", LABELS, session_ids="a")  # 31 tokens: b leaves, which was used the least recently
    assert pipeline.active_sessions == ["a", "c"]
    with pytest.raises(ValueError, match="session 'b' left to make room within max_cached_tokens=30") as left:
        pipeline("x", LABELS, session_ids="b")
    with pytest.raises(ValueError, match="would keep 33 tokens, more than max_cached_tokens=30") as over:
        pipeline(["0" * 22, ""], LABELS, session_ids=["a", "d"])
    assert isinstance(left.value, ArgumentError) and isinstance(over.value, ArgumentError)
    assert pipeline.active_sessions == ["a", "c"]
    pipeline.delete_session("b")
    assert pipeline("x", LABELS, session_ids="b")[0]["cached_length"] == 1


def test_sessions_can_wait_in_host_memory() -> None:
    plain, offloading = (streaming(max_cache_len=40, drop_absent=False) for _ in range(2))
    offloading.sessions.offloads = True  # on a CPU it has no effect, but all of it works
    for start in range(0, 90, 15):
        names = [text for text in TEXTS if text and (len(text) + start) % 4]
        chunks = [text[start : start + 15] for text in names]
        answers = [each(chunks, LABELS, session_ids=names) for each in (plain, offloading)]
        assert_same_answers(*answers)
        assert offloading.sessions.pool.used_pages == 0 < plain.sessions.pool.used_pages
    with pytest.raises(RuntimeError, match="no"):
        offloading(["x", "y"], LABELS, session_ids=[names[0], "new"], strategies=Failing())
    answers = [each("x", LABELS, session_ids=names[0]) for each in (plain, offloading)]
    assert_same_answers(*answers)
    assert offloading.sessions.pool.used_pages == 0


def test_a_call_that_cannot_move_keys_and_values_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, offloading = (streaming(max_cache_len=40, drop_absent=False) for _ in range(2))
    offloading.sessions.offloads = True
    for each in (plain, offloading):
        each(["begin" * 9, "other"], LABELS, session_ids=["a", "b"])
    pool = offloading.sessions.pool
    for method in ("stow", "restore"):
        works, calls = getattr(pool, method), []

        def second_fails(*given: Any, works: Any = works, calls: list[int] = calls) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise torch.OutOfMemoryError
            return works(*given)

        with monkeypatch.context() as changed:
            changed.setattr(pool, method, second_fails)
            with pytest.raises(torch.OutOfMemoryError):
                offloading(["more", "text"], LABELS, session_ids=["a", "b"])
        assert pool.used_pages == 0
    answers = [each(["x", "y"], LABELS, session_ids=["a", "b"]) for each in (plain, offloading)]
    assert_same_answers(*answers)


def test_a_copy_goes_on_with_the_same_sessions() -> None:
    pipeline = streaming(max_cache_len=20, drop_absent=False, max_cached_tokens=30)
    for name in ("left", "a", "b"):
        pipeline("0123456789 and more", LABELS, session_ids=name, prompt="P: ")
    pipeline.set_session_strategy("b", ours.SlidingWindowStrategy(3))
    copies = [pickle.loads(pickle.dumps(pipeline)), copy.deepcopy(pipeline)]
    answers = [each("x", LABELS, session_ids="b", threshold=0.0) for each in (pipeline, *copies)]
    for twin, found in zip(copies, answers[1:], strict=True):
        assert_same_answers(found, answers[0])
        assert twin.active_sessions == pipeline.active_sessions
        with pytest.raises(ValueError, match="'left' left to make room"):
            twin("x", LABELS, session_ids="left")
    waiting = streaming(offload_to_cpu=True, use_pinned_memory=True)
    assert copy.deepcopy(waiting).sessions.pins


def test_settings_may_change_while_there_are_sessions() -> None:
    pipeline, twin = streaming(), streaming(classification_type="single-label")
    for each in (pipeline, twin):
        each("begin", LABELS, session_ids="a")
    pipeline.max_length, pipeline.batch_tokens, pipeline.classification_type = 64, 99, "single-label"
    assert_same_answers(*(each("x", LABELS, session_ids="a") for each in (pipeline, twin)))
    pipeline.tokenizer = copy.deepcopy(pipeline.tokenizer)
    with pytest.raises(ValueError, match="the tokenizer changed"):
        pipeline("x", LABELS, session_ids="a")


def test_a_window_of_nothing() -> None:
    """One below zero holds nothing too; there the reference fails with older versions of transformers."""
    theirs = reference.StreamingZeroShotClassificationPipeline(
        tiny_reference(), byte_tokenizer(), device="cpu"
    )
    nothing, less, expected = (
        pipeline("hello", LABELS, session_ids="a", strategies=package.SlidingWindowStrategy(size))
        for package, pipeline, size in (
            (ours, streaming(), 0),
            (ours, streaming(), -3),
            (reference, theirs, 0),
        )
    )
    assert_same_answers(nothing, expected)
    assert less == nothing


class Failing(ours.EveryChunkStrategy):
    def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
        raise RuntimeError("no")


class Foreign(ours.EveryChunkStrategy):
    def __init__(self, found: Any) -> None:
        self.found = found

    def get_window(self, cache_state: ours.CacheState) -> Any:
        return self.found


FAILURES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"session_ids": ["a", "a"]}, ValueError, "unique"),
    ({"session_ids": ["a"]}, ValueError, "needs 2; got 1"),
    ({"session_ids": ["a", ""]}, ValueError, "string that is not empty"),
    ({"session_ids": None}, TypeError, "session_ids must be a string or a list of strings"),
    ({"session_ids": {"a", "b"}}, TypeError, "session_ids is a set"),
    ({"labels": []}, ValueError, "at least one label"),
    ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number"),
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"return_hierarchical": torch.ones(2)}, TypeError, "return_hierarchical must be true or false"),
    ({"threshold": 2}, ValueError, "threshold"),
    ({"strategies": [Failing()]}, ValueError, "needs 2; got 1"),
    ({"strategies": ["x", "y"]}, TypeError, "derives from gliclass_fast.streaming.ClassificationStrategy"),
    ({"prompt": ["other", "new"]}, ValueError, "prompt or examples of session 'a' changed"),
    ({"strategies": Failing()}, RuntimeError, "no"),
    ({"strategies": Foreign(ours.create_empty_cache())}, ValueError, "Foreign.get_window must return the"),
    ({"strategies": Foreign(None)}, ValueError, "Foreign.get_window must return the state"),
]


@pytest.mark.parametrize(("changes", "error", "message"), FAILURES)
def test_a_call_that_fails_changes_nothing(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    pipelines = [streaming(default_strategy=ours.EveryNTokensStrategy(4)) for _ in range(2)]
    for each in pipelines:
        each(["begin", "other"], LABELS, session_ids=["a", "gone"], prompt="P: ")
    arguments = {"labels": LABELS, "session_ids": ["a", "new"], **changes}
    with pytest.raises(error, match=message) as found:
        pipelines[0](["abc", "def"], **arguments)
    assert isinstance(found.value, ArgumentError) == (
        "get_window" not in message and error is not RuntimeError
    )
    assert pipelines[0].active_sessions == ["a", "gone"]
    assert pipelines[0].sessions.pool.used_pages == pipelines[1].sessions.pool.used_pages
    answers = [each(["x", "y"], LABELS, session_ids=["a", "gone"]) for each in pipelines]
    assert_same_answers(*answers)


def test_a_pass_that_fails_or_overflows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, twin = streaming(batch_tokens=30), streaming(batch_tokens=30)
    for each in (pipeline, twin):
        each(["begin", "here"], LABELS, session_ids=["a", "b"])
    network = pipeline.model.loaded.network
    score, calls = network.score_sections, []

    def fails_later(*given: Any) -> Any:
        calls.append(len(calls))
        if len(calls) > 1:
            raise torch.OutOfMemoryError
        return score(*given)

    with monkeypatch.context() as patched:
        patched.setattr(network, "score_sections", fails_later)
        with pytest.raises(torch.OutOfMemoryError, match="on one text alone"):
            pipeline(["more", "text"], LABELS, session_ids=["b", "c"])
    last, kept = network.scorer.classifier.last, network.scorer.classifier.last.bias
    last.bias = torch.nn.Parameter(torch.full_like(kept, float("nan")), requires_grad=False)
    with pytest.raises(FloatingPointError, match="session 'a' has a logit that is not finite"):
        pipeline("more", LABELS, session_ids="a")
    last.bias = kept
    assert pipeline.active_sessions == ["a", "b"]
    answers = [each(["x", "y"], LABELS, session_ids=["a", "b"]) for each in (pipeline, twin)]
    assert_same_answers(*answers)


def test_sessions_do_not_move_with_their_model() -> None:
    pipeline = streaming()
    pipeline("begin", LABELS, session_ids="a")
    pipeline.model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="or the model moved"):
        pipeline("x", LABELS, session_ids="a")
    pipeline.clear_sessions()
    [found] = pipeline("begin", LABELS, session_ids="a", threshold=0.0)
    [exact] = streaming()("begin", LABELS, session_ids="a", threshold=0.0)
    for mine, theirs in zip(found["predictions"], exact["predictions"], strict=True):
        assert abs(mine["score"] - theirs["score"]) < 0.1


def test_threads_share_a_pipeline() -> None:
    pipeline, found = streaming(drop_absent=False), dict[str, Answers]()

    def run(name: str) -> None:
        found[name] = [pipeline(f"{name} {step}", LABELS, session_ids=name)[0] for step in range(8)]

    threads = [threading.Thread(target=run, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "abcd":
        alone = streaming()
        expected = [alone(f"{name} {step}", LABELS, session_ids=name)[0] for step in range(8)]
        assert_same_answers(found[name], expected)


def test_in_triton() -> None:
    model = reference_model(
        "qwen3", QWEN3 | {"num_hidden_layers": 1}, architecture_type="decoder-kv",
        scorer_encoder_num_layers=1, scorer_mlp_hidden_size=16,
    )  # fmt: skip
    window = ours.SlidingWindowStrategy(20)
    plain, triton = (
        StreamingZeroShotClassificationPipeline(
            loaded(model, backend=backend), byte_tokenizer(), device="cpu", default_strategy=window
        )
        for backend in (None, "triton")
    )
    for chunk in ("abcdefghijklmnopq", "rs tuvw"):
        arguments: dict[str, Any] = {"labels": ["x"], "session_ids": "s", "threshold": 0.0}
        assert_same_answers(triton(chunk, **arguments), plain(chunk, **arguments))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_cache_len": 0}, ValueError, "max_cache_len must be greater than zero"),
        ({"max_cache_len": 2.5}, TypeError, "max_cache_len must be a whole number"),
        ({"max_cached_tokens": -1}, ValueError, "max_cached_tokens must be greater than zero"),
        ({"default_batch_size": 0}, ValueError, "default_batch_size must be greater than zero"),
        (
            {"default_strategy": "every"},
            TypeError,
            "derives from gliclass_fast.streaming.ClassificationStrategy",
        ),
    ],
)
def test_wrong_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as found:
        streaming(**settings)
    assert isinstance(found.value, ArgumentError)


def test_models_that_cannot_stream() -> None:
    with pytest.raises(ValueError, match="needs architecture_type='decoder-kv', got 'uni-encoder'"):
        streaming(reference_model("bert"))
    reading = tiny_reference(recurrent_steps=2, recurrent_read_text=True)
    with pytest.raises(ValueError, match="recurrent_read_text"):
        streaming(reading)
    pipeline = streaming()
    for model, message in ((reading, "recurrent_read_text"), (reference_model("bert"), "uni-encoder")):
        pipeline.model = model
        with pytest.raises(ValueError, match=message):
            pipeline("x", LABELS, session_ids="a")
