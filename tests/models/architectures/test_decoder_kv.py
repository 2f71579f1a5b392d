"""`decoder-kv` gives the reference's logits, over all its language model, scorer and reader have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast import UnsupportedConfigError, ZeroShotClassificationWithChunkingPipeline
from gliclass_fast.models.configuration import read_config
from tests.accuracy import assert_same_logits, assert_same_results
from tests.pairwise import BOTH, Row, in_words, pairwise
from tests.parity import assert_parity, reference_logits
from tests.sentences import LABELS, SHORT_LABELS, SHORT_TEXTS, TEXTS
from tests.tiny import (
    QWEN3,
    SHOT,
    byte_tokenizer,
    fast_pipeline,
    loaded,
    reference_model,
    reference_pipeline,
)

STEPS: dict[str, dict[str, Any]] = {
    "one step": {},
    "three steps": {"recurrent_steps": 3, "recurrent_halt_threshold": None},
    "halting": {"recurrent_steps": 2, "recurrent_inference_max_steps": 6, "recurrent_halt_threshold": 0.05},
    "trained alone": {"recurrent_steps": 3, "recurrent_inference": False},
}
ROWS = pairwise(
    steps=tuple(STEPS),
    problem_type=("single_label_classification", "multi_label_classification"),
    recurrent_read_text=BOTH,
    normalize_features=BOTH,
    use_calibrator=BOTH,
    scorer_encoder_num_layers=(1, 3),
    scorer_mlp_hidden_size=(24, 64),
    num_key_value_heads=(1, 2, 4),
    head_dim=(8, 12),
    attention_bias=BOTH,
    hidden_size=(32, 128),
    shot=BOTH,
)


def tiny(backbone: dict[str, Any] | None = None, **options: Any) -> Any:
    return reference_model("qwen3", {**QWEN3, **(backbone or {})}, architecture_type="decoder-kv", **options)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=in_words)
def test_options(row: Row) -> None:
    options = dict(row)
    steps, shot = options.pop("steps"), options.pop("shot")
    names = ("num_key_value_heads", "head_dim", "attention_bias", "hidden_size")
    backbone = {name: options.pop(name) for name in names}
    assert_parity(tiny(backbone, **options, **STEPS[steps]), **(SHOT if shot else {}))


@pytest.mark.parametrize("backend", ["onednn", "reference", "triton"])
def test_backends(backend: str) -> None:
    one_layer = {"num_hidden_layers": 1}, {"scorer_encoder_num_layers": 1, "scorer_mlp_hidden_size": 24}
    model = tiny(one_layer[0], **one_layer[1], recurrent_steps=2, recurrent_read_text=True)
    assert_parity(model, ["so", "good"], [["a", "bc"], ["d"]], backend=backend)


def test_many_labels_and_long_texts_are_cut_at_the_right() -> None:
    texts = ["long text " * 30, "t", "some more " * 20]
    assert_parity(tiny(), texts, [["a"], [f"label {number}" for number in range(40)], ["b", "c"]])
    short = [labels[:2] for labels in LABELS]
    pipeline = assert_parity(tiny(), TEXTS, short, max_length=48)
    _, (info, whole) = pipeline(["t" * 60, "t"], ["a", "b"], return_info=True)
    assert (info.tokens, info.tokens_cut, whole.tokens_cut) == (48, 60 - (48 - 6), 0)
    labels = [f"label{number}" for number in range(10)]  # 7 tokens each
    with pytest.raises(ValueError, match=r"10 label\(s\) do not fit the window of 48 tokens: .* need 73"):
        pipeline("text", labels)
    _, (info,) = pipeline("text", labels, labels_per_pass="auto", return_info=True)
    assert info.passes == 4


@pytest.mark.parametrize("options", [{}, {"use_calibrator": True}])
def test_tensors_have_as_many_slots_as_labels(options: dict[str, Any]) -> None:
    model = reference_model("qwen3", QWEN3, architecture_type="decoder-kv", **options)
    pipe = reference_pipeline(model, max_length=2048).pipe
    for texts, labels in (
        (["hello"], [[f"l{n}" for n in range(30)]]),
        (["hello", "bye"], [["a", "b"], ["c"]]),
    ):
        inputs = pipe.prepare_inputs(texts, labels, False)
        with torch.no_grad():
            expected = model(**inputs).logits
        found = loaded(model)(**inputs, max_num_classes=25)
        assert found.logits.shape == expected.shape
        used = found.class_mask.bool()
        assert used.sum() == sum(map(len, labels))
        assert_same_logits(found.logits[used].numpy(), expected[used].numpy())
    for value in (True, False):
        with pytest.raises(TypeError, match=r"use_recurrence is not supported: .* steps"):
            loaded(model)(**inputs, use_recurrence=value)


SECTIONS = {  # as a tokenizer that a caller uses may give them
    "whole": "text<<SEP>>sports<<LABEL>>art<<LABEL>><<SEP>>",
    "special tokens of the tokenizer": "[CLS]text<<SEP>>sports<<LABEL>>art<<LABEL>><<SEP>>[SEP]",
    "a token behind": "text<<SEP>>sports<<LABEL>>art<<LABEL>><<SEP>>x",
    "the end cut off": "text<<SEP>>sports<<LABEL>>art<<LABEL>>",
    "a label cut off": "text<<SEP>>sports<<LABEL>>ar",
    "a separator between labels": "a<<SEP>>b<<SEP>>sports<<LABEL>><<SEP>>art<<LABEL>>",
    "a label marker in the text": "a <<LABEL>> b<<SEP>>sports<<LABEL>>art<<LABEL>><<SEP>>",
    "labels alone": "sports<<LABEL>>art<<LABEL>>",
    "a separator in front": "<<SEP>>sports<<LABEL>><<SEP>>",
}


@pytest.mark.parametrize(
    "options",
    [
        {"normalize_features": True},
        {"recurrent_steps": 3, "recurrent_read_text": True, "recurrent_halt_threshold": None},
        {"recurrent_steps": 3, "problem_type": "single_label_classification", "use_calibrator": True},
    ],
    ids=["one step", "reads the text", "halts"],
)
def test_sections_that_a_caller_made(options: dict[str, Any]) -> None:
    """The last <<SEP>> stands for the text wherever it is, zeros where the section has none; and where no
    <<SEP>> is in front of the labels, the section is all tokens."""
    model, tokens = tiny(**options), byte_tokenizer()
    ours, expected = loaded(model), []
    batch = tokens(list(SECTIONS.values()), add_special_tokens=False, padding=True, return_tensors="pt")
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        alone = ids[None, mask.bool()]
        with torch.no_grad():
            expected.append(model(alone, torch.ones_like(alone)).logits[0].numpy())
        assert_same_logits(ours(alone).logits[0].numpy(), expected[-1])
    found = ours(**batch)
    for logits, used, wanted in zip(found.logits, found.class_mask.bool(), expected, strict=True):
        assert_same_logits(logits[used].numpy(), wanted)
    with pytest.raises(ValueError, match=r"input_ids\[0\] holds no label"):
        ours(tokens(["text<<SEP>>sports"], add_special_tokens=False, return_tensors="pt")["input_ids"])


def test_every_token_counts_once() -> None:
    """The scorer reads the hidden states of the label section: that costs more, but reads no token again."""
    pipeline = fast_pipeline(tiny())
    prompts = pipeline.engine.encode(pipeline.prepare(TEXTS, LABELS).requests)
    _, infos = pipeline(TEXTS, LABELS, return_info=True)
    assert [each.tokens for each in infos] == [len(prompt.token_ids) for prompt in prompts]
    sections = [prompt.label_prompt for prompt in prompts if prompt.label_prompt is not None]
    for info, prompt, section in zip(infos, prompts, sections, strict=True):
        assert prompt.cost == info.tokens + len(section.token_ids)
        assert (prompt.token_ids[-len(section.token_ids) :] == section.token_ids).all()


def test_markers_in_a_text_or_a_label_are_ordinary_text() -> None:
    pipeline = fast_pipeline(tiny())
    texts = ["a <<SEP>> b<<LABEL>> c", "plain"]
    found = pipeline.get_embeddings(texts, [["x<<LABEL>>y", "<<SEP>>"], ["x", "y"]])
    assert [each["logits"].shape for each in found] == [(2,), (2,)]
    [prompt, _] = pipeline.engine.encode(pipeline.prepare(texts, ["x<<LABEL>>", "y"]).requests)
    marks = np.isin(prompt.token_ids, byte_tokenizer().convert_tokens_to_ids(["<<LABEL>>", "<<SEP>>"]))
    assert marks.sum() == 4  # of two labels, and one <<SEP>> on each side


def test_pipelines_give_the_results_of_the_reference() -> None:
    model = tiny(use_calibrator=True)
    ours, theirs = fast_pipeline(loaded(model)), reference_pipeline(model)
    tree = {"topic": ["sport", "art"], "mood": ["good"]}
    for arguments in (
        {"labels": LABELS, "threshold": 0.3},
        {"labels": tree, "return_hierarchical": True, "prompt": "Task: "},
        {"labels": LABELS, "classification_type": "single-label"},
        {"labels": ["a", "b"], "examples": SHOT["examples"], "prompt": [f"{n} " for n in range(len(TEXTS))]},
    ):
        assert_same_results(ours(TEXTS, **arguments), theirs(TEXTS, batch_size=1, **arguments))


def test_chunks_are_read_with_prompts_of_this_architecture() -> None:
    model, text = tiny(), "one two three four five six seven eight"
    chunking = ZeroShotClassificationWithChunkingPipeline(
        loaded(model), byte_tokenizer(), device="cpu", progress_bar=False, text_chunk_size=20,
        text_chunk_overlap=5,
    )  # fmt: skip
    labels, pieces = ["a", "b", "c"], chunking.chunk_text(text)
    logits = reference_logits(model, pieces, [labels] * len(pieces), prompt="Task: ")
    expected = torch.tensor(np.stack(logits)).sigmoid().amax(0)
    [found] = chunking(text, labels, threshold=0.0, prompt="Task: ")
    assert len(pieces) == 3
    assert {each["label"]: each["score"] for each in found} == pytest.approx(
        dict(zip(labels, expected.tolist(), strict=True)), abs=1e-5
    )


def test_a_checkpoint_s_own_vocabulary_size_and_ignored_options() -> None:
    ignored = {"scorer_type": "mlp", "pooling_strategy": "avg", "class_token_pooling": "average"}
    model = tiny({"vocab_size": 400}, vocab_size=270, **ignored)
    found = fast_pipeline(loaded(model)).get_embeddings(SHORT_TEXTS, SHORT_LABELS)
    for mine, theirs in zip(found, reference_logits(model, SHORT_TEXTS, SHORT_LABELS), strict=True):
        assert_same_logits(mine["logits"], theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_config": {"model_type": "qwen2"}}, r"model_type='qwen2'.*supported: qwen3"),
        ({"encoder_config": {"model_type": "llama"}}, r"model_type='llama'.*supported: qwen3"),
        ({"encoder_config": {"model_type": "qwen3_5_text"}}, r"'qwen3_5_text'.*supported: qwen3"),
        ({"encoder_config": {"model_type": "embedding_gemma2"}}, r"'embedding_gemma2'.*supported: qwen3"),
        ({"encoder_config": {"model_type": "gemma4"}, "multimodal": True}, r"'gemma4'.*supported: qwen3"),
        ({"multimodal": True}, r"multimodal=True .*supported: False"),
        ({"use_lstm": True}, r"use_lstm=True .*supported: False"),
        ({"sep_token_index": None}, r"sep_token_index=-1 .*must be one of the backbone's 263 tokens"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfigError, match=message):
        read_config(tiny().config.to_dict() | options)


@pytest.mark.parametrize("option", [{"use_sliding_window": True}, {"layer_types": ["sliding_attention"] * 2}])
def test_sliding_windows_of_the_language_model_are_refused(option: dict[str, Any]) -> None:
    raw = tiny().config.to_dict()
    with pytest.raises(UnsupportedConfigError, match=r"layer_types .*supported: false, full_attention alone"):
        read_config(raw | {"encoder_config": raw["encoder_config"] | option})


def test_a_width_that_its_scorer_cannot_divide_is_refused() -> None:
    raw = tiny().config.to_dict()
    backbone = raw["encoder_config"] | {"hidden_size": 130 + 62 + 1}
    with pytest.raises(UnsupportedConfigError, match=r"hidden_size=193 .* 3 heads"):
        read_config(raw | {"encoder_config": backbone, "hidden_size": 193})


def test_the_reference_refuses_what_is_refused_here() -> None:
    with pytest.raises(ValueError, match="requires Qwen3"):
        reference_model("llama", architecture_type="decoder-kv")
