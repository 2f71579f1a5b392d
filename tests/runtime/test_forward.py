"""The model is called as a stock one: with padded tensors, by the reference's own pipelines too."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any

import gliclass
import pytest
import torch

from gliclass_fast import GLiClassModel, demo
from gliclass_fast.runtime.forward import EMPTY_SLOT
from tests import families
from tests.accuracy import assert_same_logits, assert_same_results
from tests.pairwise import in_words, pairwise
from tests.sentences import LABELS, TEXTS
from tests.tiny import (
    MARKERS,
    SHOT,
    byte_tokenizer,
    fast_pipeline,
    loaded,
    reference_model,
    reference_pipeline,
)

UNI_ENCODERS = pairwise(
    lambda row: row.get("pooling_strategy") != "pass" or row.get("scorer_type") in (None, "cross-attn"),
    scorer_type=("mlp", "cross-attn"),
    class_token_pooling=("first", "average"),
    embed_class_token=(True, False),
    extract_text_features=(True, False),
    use_segment_embeddings=(True, False),
    prompt_first=(True, False),
    use_calibrator=(True, False),
)


def check_reference_pipeline(model: Any, **arguments: Any) -> None:
    """The reference's pipeline gives the same over our model, in batches of texts with as many labels."""
    theirs, ours = reference_pipeline(model), reference_pipeline(loaded(model))
    for labels in (LABELS[2], LABELS[1]):
        expected = theirs(TEXTS, labels, threshold=0.0, batch_size=1, **arguments)
        for size in (1, 8):
            found = ours(TEXTS, labels, threshold=0.0, batch_size=size, **arguments)
            assert_same_results(found, expected)


@pytest.mark.parametrize("options", UNI_ENCODERS, ids=in_words)
def test_uni_encoders_in_the_reference_pipeline(options: dict[str, Any]) -> None:
    if options["scorer_type"] == "cross-attn":
        options = {**options, "use_calibrator": False}
    check_reference_pipeline(reference_model(**options), **SHOT)


@pytest.mark.parametrize("kind", families.GLICLASS)
def test_other_architectures_in_the_reference_pipeline(kind: str) -> None:
    check_reference_pipeline(families.reference(kind))


@pytest.mark.parametrize("kind", [None, *families.GLICLASS])
def test_inputs_of_our_pipeline_are_those_of_the_reference(kind: str | None) -> None:
    model = reference_model() if kind is None else families.reference(kind)
    theirs, ours = reference_pipeline(model).pipe, fast_pipeline(model)
    for labels, same in ((LABELS[2], True), (LABELS[: len(TEXTS)], False)):
        if not same and kind is not None and kind.startswith("bi-encoder"):
            continue  # the reference cannot stack lists of different lengths
        expected = theirs.prepare_inputs(TEXTS, labels, same_labels=same)
        found = ours.pipe.prepare_inputs(TEXTS, labels, same_labels=same)
        assert type(found) is type(expected)
        names = {"input_ids", "attention_mask", *(name for name in expected if name.startswith("class_"))}
        for name in names:
            assert torch.equal(found[name], expected[name]), name
        logits = model(**expected, max_num_classes=5).logits
        mine = ours.model(**found, max_num_classes=5)
        for row, other, mask in zip(mine.logits, logits, mine.class_mask.bool(), strict=True):
            assert_same_logits(row[mask].numpy(), other[: len(row)][mask[: len(other)]].detach().numpy())


def test_output_has_the_shapes_of_the_reference() -> None:
    model = reference_model(scorer_type="mlp", use_calibrator=True)
    inputs = reference_pipeline(model).pipe.prepare_inputs(TEXTS[:2], LABELS[:2])
    ask = {"max_num_classes": 7, "output_text_embeddings": True, "output_class_embeddings": True}
    with torch.no_grad():
        expected = model(**inputs, **ask)
    found = loaded(model)(**inputs, **ask)
    for name in ("logits", "uncalibrated_logits", "text_embeddings", "class_embeddings", "class_mask"):
        assert getattr(found, name).shape == getattr(expected, name).shape, name
    # in older versions of transformers the reference's output does not list what is set after it was made
    assert [name for name in found if name in expected] == [name for name in expected if name in found]
    used = expected.class_mask.bool()
    assert torch.equal(found.class_mask, expected.class_mask) and (found.logits[~used] == EMPTY_SLOT).all()
    torch.testing.assert_close(found.class_embeddings[used], expected.class_embeddings[used])
    torch.testing.assert_close(found.text_embeddings, expected.text_embeddings)
    assert_same_logits(found.uncalibrated_logits[used].numpy(), expected.uncalibrated_logits[used].numpy())
    assert found.hidden_states is None and found[0] is found.logits
    ours = loaded(model)
    assert ours(**inputs, return_dict=False)[0].shape == (2, model.config.max_num_classes)
    model.config.max_num_classes = None  # stands for the default, as null does
    for each in (ours, loaded(model)):
        assert each(**inputs).logits.shape == (2, type(model.config)().max_num_classes)


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("marker", [True, False])
def test_means_of_labels_where_a_text_holds_a_marker(marker: bool, whole: bool, most: int) -> None:
    """The text's marker counts as one, and ends the label before it where labels have the rest."""
    own = {"extract_text_features": not whole, "embed_class_token": marker}
    model = reference_model("bert", class_token_pooling="average", **own)
    label, sep = byte_tokenizer().convert_tokens_to_ids(MARKERS[:2])
    ids = torch.tensor([[1, label, 20, 21, label, 30, sep, 40, 41, label, 50, 51, 52, 2]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_num_classes": most}
    with torch.no_grad():
        expected = model(**inputs).logits
    found = loaded(model)(**inputs).logits
    count = min(most, 3)
    assert_same_logits(found[0, :count].numpy(), expected[0, :count].numpy())


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("prompt_first", [True, False])
@pytest.mark.parametrize("pooling", ["first", "average"])
def test_labels_that_are_left_out_end_the_one_before(pooling: str, prompt_first: bool, most: int) -> None:
    model = reference_model("bert", class_token_pooling=pooling, prompt_first=prompt_first)
    inputs = reference_pipeline(model).pipe.prepare_inputs(TEXTS[:2], LABELS[2][:3], same_labels=True)
    with torch.no_grad():
        expected = [
            model(**{name: each[None] for name, each in zip(inputs, row, strict=True)}, max_num_classes=most)
            for row in zip(*inputs.values(), strict=True)
        ]
    found = loaded(model)(**inputs, max_num_classes=most)
    count = min(most, 3)
    for row, own in zip(found.logits, expected, strict=True):
        assert_same_logits(row[:count].numpy(), own.logits[0, :count].numpy())


def test_padding_may_be_on_the_left_and_a_marker_in_a_text_counts_as_one() -> None:
    model = reference_model()
    inputs = reference_pipeline(model).pipe.prepare_inputs(
        ["one", "a longer <<LABEL>> text"], ["x", "y"], True
    )
    ours = loaded(model)
    right = ours(**inputs, max_num_classes=3)
    assert right.class_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    padding = int((inputs["attention_mask"][0] == 0).sum())
    left = {name: each[:1].roll(padding, dims=1) for name, each in inputs.items()}
    assert torch.equal(ours(**left, max_num_classes=3).logits, right.logits[:1])


@pytest.mark.slow
def test_two_hundred_texts_in_the_reference_pipeline() -> None:
    model = gliclass.GLiClassModel.from_pretrained(demo.PATH)
    tokenizer = fast_pipeline(GLiClassModel.from_pretrained(demo.PATH), str(demo.PATH)).tokenizer
    words = ["match", "goal", "recipe", "soup", "senate", "vote", "song", "chord", "planet", "rain"]
    texts = [" ".join(words[(3 * n + k * k) % len(words)] for k in range(1 + n % 20)) for n in range(200)]
    theirs = reference_pipeline(model, tokenizer)
    ours = reference_pipeline(GLiClassModel.from_pretrained(demo.PATH), tokenizer)
    labels = ["sports", "cooking", "politics", "music", "weather"]
    expected = theirs(texts, labels, threshold=0.0)
    for size in (1, 8):
        assert_same_results(ours(texts, labels, threshold=0.0, batch_size=size), expected)


@pytest.mark.parametrize("kind", ["bi-encoder", "bi-encoder-fused", "encoder-decoder, BART"])
def test_labels_longer_than_their_positions_are_refused(kind: str) -> None:
    model = families.reference(kind)
    ours, inputs = loaded(model), reference_pipeline(model).pipe.prepare_inputs(TEXTS[:2], LABELS[2], True)
    config = ours.loaded.config
    longest = (config.label_backbone_config or config.decoder_config).max_positions
    ids, mask = inputs["class_input_ids"], inputs["class_attention_mask"]
    place = (1,) * (ids.dim() - 1)
    for extra in (0, 1):
        added = longest + extra - ids.shape[-1]
        inputs["class_input_ids"] = torch.nn.functional.pad(ids, (0, added), value=int(ids.max()))
        inputs["class_attention_mask"] = torch.nn.functional.pad(mask, (0, added), value=0)
        inputs["class_attention_mask"][place] = 1
        where = re.escape(f"class_input_ids{list(place)} has {longest + 1} tokens")
        with pytest.raises(ValueError, match=where) if extra else nullcontext():
            ours(**inputs, max_num_classes=5)


def test_what_the_model_does_not_do_is_named() -> None:
    model = loaded(reference_model())
    ids = torch.tensor([byte_tokenizer()("no label here")["input_ids"]])
    with pytest.raises(ValueError, match=r"input_ids\[0\] holds no label"):
        model(ids)
    with pytest.raises(ValueError, match=r"input_ids\[0\] has no token that attention_mask counts"):
        model(ids, torch.zeros_like(ids))
    with pytest.raises(TypeError, match=r"labels, output_hidden_states is not supported.*gliclass package"):
        model(ids, labels=torch.ones(1), output_hidden_states=True)
    with pytest.raises(ValueError, match=r"adapter 'a' \(for text 0\) is not loaded"):
        model(ids, adapter_ids=["a"])
    with pytest.raises(TypeError, match="class_input_ids and class_attention_mask"):
        loaded(families.reference("bi-encoder"))(ids)
    with pytest.raises(TypeError, match="is called through its pipeline"):
        loaded(families.reference("GliZNet D"))(ids, max_num_classes=2)
