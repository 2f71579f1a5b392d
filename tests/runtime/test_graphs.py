"""The graph runner works with a recorder that replays by running again into the recording's memory."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from gliclass_fast import (
    GLiClassModel,
    ZeroShotClassificationPipeline,
    ZeroShotClassificationWithChunkingPipeline,
)
from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.engine.engine import Engine
from gliclass_fast.runtime import graphs, snapshot
from gliclass_fast.runtime.graphs import MAX_TOKENS, GraphRunner
from gliclass_fast.runtime.loaded import LoadedNetwork
from gliclass_fast.text.prompts import Request
from tests import families
from tests.accuracy import ALONE_TOLERANCE, assert_same_results, assert_unchanged
from tests.runtime.recorder import Again, with_graphs
from tests.sentences import LABELS, TEXTS
from tests.tiny import ALL_SCORERS, ENCODERS, fast_pipeline, random_prompt, reference_model


def tiny_model(encoder: str = "deberta-v2", scorer: str = "mlp", **options: object) -> GLiClassModel:
    return GLiClassModel.from_gliclass(reference_model(encoder, scorer_type=scorer, **options), device="cpu")


def check_equal(model: GLiClassModel, prompts: list[EncodedPrompt]) -> None:
    found, expected = model.loaded.score(prompts).wait(), model.loaded(model.loaded.pack(prompts)).logits
    assert_unchanged(found, expected[None])


def test_buckets() -> None:
    bounds = set()
    for tokens in range(1, MAX_TOKENS + 1):
        capacity = GraphRunner.bucket(tokens, 1, 1)
        assert capacity is not None and capacity.labels == capacity.prompts == 16
        assert capacity == GraphRunner.bucket(capacity.tokens, 1, 16)  # a full batch stays in its bucket
        assert tokens <= capacity.tokens <= max(tokens + 15, tokens * 9 / 8) and capacity.tokens % 16 == 0
        bounds.add(capacity.tokens)
    assert len(bounds) == 64 and max(bounds) == MAX_TOKENS
    assert GraphRunner.bucket(MAX_TOKENS + 1, 1, 1) is None
    for labels in range(1, 5000):
        capacity = GraphRunner.bucket(MAX_TOKENS, 1, labels)
        assert capacity is not None and labels <= capacity.labels < max(17, 2 * labels)


@pytest.mark.parametrize("scorer", ALL_SCORERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_replays_score_as_eager_runs_do(encoder: str, scorer: str) -> None:
    recorder = Again()
    model = with_graphs(tiny_model(encoder, scorer, extract_text_features=True), recorder)
    for seed in range(4):  # eager, recorded and replayed, replayed
        sizes = ((50 - seed, 3), (7 + seed, 2 + seed), (2, 1))
        check_equal(model, [random_prompt(*size, seed) for size in sizes])
    assert recorder.recorded == 2


def test_a_full_bucket() -> None:
    model = with_graphs(tiny_model(extract_text_features=True), Again())
    for seed in range(3):
        check_equal(model, [random_prompt(64, 16, seed), random_prompt(64, 16, seed + 9)])


def test_batches_are_no_larger_than_the_largest_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder)
    pipeline = fast_pipeline(model, batch_tokens=10**6)
    assert pipeline.engine.batch_tokens == MAX_TOKENS
    monkeypatch.setattr(graphs, "MAX_TOKENS", 64)
    for _ in range(3):
        check_equal(model, [random_prompt(65, 3)])  # one prompt that is too long runs without graphs
        check_equal(model, [random_prompt(64, 33)])  # or has too many labels
    assert recorder.recorded == 0
    check_equal(model, [random_prompt(64, 32)])


def test_a_calibrated_model_gives_both_kinds_of_logits() -> None:
    model = tiny_model(use_calibrator=True)
    output = model.loaded(model.loaded.pack([random_prompt(30, 4)]))
    with_graphs(model, Again())
    for _ in range(3):
        found = model.loaded.score([random_prompt(30, 4)]).wait()
    assert output.uncalibrated_logits is not None
    expected = torch.stack((output.logits, output.uncalibrated_logits)).numpy()
    assert found.shape == (2, 4)
    assert_unchanged(found, expected)


@pytest.mark.slow
def test_any_number_of_labels_replays_one_encoder() -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder)
    for labels in range(1, 301):
        check_equal(model, [random_prompt(512, labels, seed=labels)])
    assert recorder.recorded == 1 + 6  # tails for up to 16, 32, 64, 128, 256 and 512 labels


def encoded(engine: Engine, requests: list[Request]) -> list[EncodedPrompt]:
    return engine.reader.encode(requests, engine.window)


def check_only_encoders_are_recorded(pipeline: ZeroShotClassificationPipeline) -> None:
    """One recording serves any labels and any number of texts of as many tokens."""
    engine, model, recorder = pipeline.engine, pipeline.model, Again()
    engine.batch_tokens = MAX_TOKENS
    short = [Request("ab", ("a", "b"))] * 20
    least, total = (sum(len(each.token_ids) for each in encoded(engine, part)) for part in (short[:1], short))
    long = Request("x" * (2 + total - least), ("a", "b"))
    calls = [[long], short, [long], [Request(each.text, ("b", "c")) for each in short]]
    expected = [engine.score(requests) for requests in calls]
    model.loaded.graphs = GraphRunner(model.loaded.network, model.device, recorder)
    assert not model.loaded.network.score_recordable
    for requests, scored in zip(calls * 2, expected * 2, strict=True):
        for ours, theirs in zip(engine.score(requests), scored, strict=True):
            assert_unchanged(ours.logits, theirs.logits)
    assert recorder.recorded == recorder.alive() == 1
    assert len(model.loaded.graphs._met) == 1  # and not one per number of labels


@pytest.mark.parametrize("kind", ["bi-encoder", "encoder-decoder, BART", "encoder-decoder, umT5"])
def test_where_labels_come_beside_the_block(kind: str) -> None:
    check_only_encoders_are_recorded(families.pipeline(kind))


def test_where_an_lstm_reads_the_text() -> None:
    check_only_encoders_are_recorded(fast_pipeline(tiny_model("bert", use_lstm=True)))


def test_texts_of_one_token_each() -> None:
    engine = families.pipeline("encoder-decoder, umT5").engine
    model, requests = engine.model, [Request("", ("a", "b"))] * 20
    prompts = [replace(each, token_ids=each.token_ids[:1]) for each in encoded(engine, requests)]
    expected = model.loaded.score(prompts).wait()
    model.loaded.graphs = GraphRunner(model.loaded.network, model.device, Again())
    for _ in range(3):
        assert_unchanged(model.loaded.score(prompts).wait(), expected)


@pytest.mark.parametrize("kind", [None, "bi-encoder", "encoder-decoder, BART", "GliZNet D"])
def test_what_was_warmed_up_is_replayed_at_once(kind: str | None) -> None:
    pipeline = fast_pipeline(tiny_model()) if kind is None else families.pipeline(kind)
    model, recorder = pipeline.model, Again()
    recordable = model.loaded.network.score_recordable
    model.loaded.graphs = GraphRunner(model.loaded.network, model.device, recorder)
    model.warm_up(tokens=(100, 600), labels=(5, 20), prompts=(1, 3))
    assert recorder.recorded == 2 + recordable * 2 * 2  # 16 prompts at most, 16 or 32 labels
    prompts = prompts_of(pipeline.engine, tokens=602, labels=17, count=4)
    found = model.loaded.score(prompts).wait()
    assert recorder.recorded == 2 + recordable * 2 * 2
    model.loaded.graphs = None
    assert_unchanged(found, model.loaded.score(prompts).wait())


def prompts_of(engine: Engine, tokens: int, labels: int, count: int) -> list[EncodedPrompt]:
    """Gives prompts of so many tokens and labels in all."""
    own = [tuple(f"{number}" for number in range(place, labels, count)) for place in range(count)]
    short = encoded(engine, [Request("", each) for each in own])
    missing = tokens - sum(len(each.token_ids) for each in short)
    texts = ["x" * len(range(place, missing, count)) for place in range(count)]
    return encoded(engine, [Request(*pair) for pair in zip(texts, own, strict=True)])


def test_after_warming_up_nothing_else_need_be_recorded() -> None:
    recorder = Again()
    model = with_graphs(tiny_model(), recorder)
    check_equal(model, [random_prompt(200, 1)])  # met before
    model.warm_up(tokens=[32], record_others=False)
    for seed in range(3):
        check_equal(model, [random_prompt(32, 1, seed)])
        check_equal(model, [random_prompt(200, 1, seed)])
    assert recorder.recorded == 2


def test_what_a_warm_up_says_of_other_batches_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is built later has a graph runner of its own."""
    recorders, load = list[Again](), snapshot.load

    def loaded_with_graphs(*given: Any) -> LoadedNetwork:
        made = load(*given)
        made.network.score_recordable = True  # as `with_graphs` does
        recorders.append(Again())
        made.graphs = GraphRunner(made.network, made.device, recorders[-1])
        return made

    def recorded() -> list[int]:
        return [each.recorded for each in recorders]

    monkeypatch.setattr(snapshot, "load", loaded_with_graphs)
    model = tiny_model()
    model.warm_up(tokens=[32], record_others=False)
    assert recorded() == [2]
    model.refresh()
    for again in (model, pickle.loads(pickle.dumps(model)).to(torch.bfloat16)):
        for _ in range(3):
            again.loaded.score([random_prompt(32, 1)]).wait()
    assert recorded() == [2, 0, 0, 0]
    for tokens in (32, 200):  # each warm-up records what it names
        model.warm_up(tokens=[tokens], record_others=False)
    assert recorded() == [2, 4, 0, 0]
    model.warm_up(tokens=[], record_others=True)
    for _ in range(2):
        model.loaded.score([random_prompt(100, 1)]).wait()
    assert recorded() == [2, 6, 0, 0]


def test_warming_up_refuses_what_no_batch_can_be() -> None:
    model = tiny_model()
    for tokens, labels in ((20, 40), (3, 1), (0, 1)):
        with pytest.raises(ValueError, match=f"{tokens} tokens have no room for {labels} labels"):
            model.warm_up(tokens=[tokens], labels=[labels])


def test_a_pipeline_warms_its_model_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(GLiClassModel, "warm_up", lambda model, tokens: asked.append(tokens))
    plain = fast_pipeline(tiny_model())
    ZeroShotClassificationPipeline(plain.model, plain.tokenizer, device="cpu", warm_up=(64, 100))
    ZeroShotClassificationWithChunkingPipeline(plain.model, plain.tokenizer, device="cpu", warm_up=(32,))
    assert asked == [(64, 100), (32,)]


def test_short_prompts_have_work_lists_of_their_own() -> None:
    """More tiles than a quarter of the tokens need another layout of the block, so another recording."""
    recorder = Again()
    model = with_graphs(tiny_model(), recorder)
    usual, short = GraphRunner.bucket(512, 100, 100), GraphRunner.bucket(512, 200, 200)
    assert usual is not None and short is not None and usual.tiles < 200 <= short.tiles
    for _ in range(3):
        check_equal(model, [random_prompt(512, 1)])
        check_equal(model, [random_prompt(2, 1, seed) for seed in range(256)])
    assert recorder.recorded == 4


def test_all_prompts_of_a_bucket_with_labels_to_spare() -> None:
    model = with_graphs(tiny_model(use_calibrator=True, scorer="hopfield"), Again())
    prompts = [random_prompt(9, 1 + (seed == 3), seed) for seed in range(16)]
    for _ in range(3):
        room = model.loaded.graphs.capacity_for(prompts)
        assert (room.prompts, room.labels) == (16, 32)
        found, expected = model.loaded.score(prompts).wait(), model.loaded(model.loaded.pack(prompts))
        both = torch.stack((expected.logits, expected.uncalibrated_logits)).numpy()
        assert_unchanged(found, both)


def test_threads_share_a_model() -> None:
    model = with_graphs(tiny_model(), Again())

    def run(seed: int) -> None:
        check_equal(model, [random_prompt(20 + seed % 60, 1 + seed % 5, seed)])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(80)))


def test_the_pipeline_gives_the_same_scores() -> None:
    plain = fast_pipeline(tiny_model(extract_text_features=True))
    model = with_graphs(tiny_model(extract_text_features=True), Again())
    graphed = ZeroShotClassificationPipeline(model, plain.tokenizer, device="cpu", progress_bar=False)
    for _ in range(3):
        found, expected = (each(TEXTS, LABELS, threshold=0.0) for each in (graphed, plain))
        assert_same_results(found, expected, ALONE_TOLERANCE)
