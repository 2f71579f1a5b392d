"""Tensors that do not fit are refused at the top of a call, by their names; those that fit count."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from gliclass_fast.text.errors import WrongType, WrongValue
from tests import families
from tests.accuracy import assert_same_logits
from tests.tiny import VOCABULARY, byte_tokenizer, fast_pipeline, reference_model

BI_ENCODERS = ("bi-encoder", "bi-encoder-fused")
KINDS = ("uni-encoder", *families.GLICLASS)
APART = tuple(kind for kind in families.GLICLASS if kind != "decoder-kv")  # the labels are other tensors
MASKS = {
    "attention_mask": "input_ids",
    "class_attention_mask": "class_input_ids",
    "labels_mask": "class_input_ids",
}
LARGE = torch.iinfo(torch.int32).max + 1


def reference(kind: str) -> Any:
    return reference_model("bert") if kind == "uni-encoder" else families.reference(kind)


@cache
def called(kind: str) -> tuple[Any, dict[str, Tensor], Tensor]:
    """Returns our model of a kind, what it is called with, and the logits of that."""
    pipeline = fast_pipeline(reference(kind))
    inputs: dict[str, Tensor] = dict(pipeline.prepare_inputs(["one", "a longer text"], ["x", "y"]))
    return pipeline.model, inputs, pipeline.model(**inputs).logits


def refuse(kind: str, error: type[Exception], message: str, **change: Any) -> None:
    """Checks that a call with a change raises the error, and that the model answers as before after it."""
    model, inputs, logits = called(kind)
    with pytest.raises(error, match=message):
        model(**{**inputs, **change})
    assert torch.equal(model(**inputs).logits, logits)


def changed(ids: Tensor, value: int) -> Tensor:
    """Returns ids whose first row, or the first row of whose first row, has another second token."""
    ids = ids.clone()
    ids[(0,) * (ids.dim() - 1) + (1,)] = value
    return ids


def names_of(kind: str, *names: str) -> list[str]:
    return [name for name in names if name in called(kind)[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_count_are_tokens(kind: str) -> None:
    _, inputs, _ = called(kind)
    for name in names_of(kind, "input_ids", "class_input_ids"):
        ids = inputs[name]
        place = re.escape(str([0] * (ids.dim() - 1) + [1]))
        token = int(ids[(0,) * (ids.dim() - 1) + (1,)])
        for wrong in (token + 2 * LARGE, LARGE, 10**6, VOCABULARY, -1, -100, token - 2 * LARGE):
            refuse(kind, WrongValue, rf"^{name}{place} is {wrong}, .*no token", **{name: changed(ids, wrong)})
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.bool):
            message = f"^{name} must hold whole numbers.*got {dtype}"
            refuse(kind, WrongType, message, **{name: ids.to(dtype)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [-100, 10**6, 2 * LARGE])
def test_ids_that_are_padding_may_have_any_value(kind: str, padding: int) -> None:
    model, inputs, logits = called(kind)
    given = dict(inputs)
    for name in names_of(kind, "input_ids", "class_input_ids"):
        mask = inputs[name.replace("input_ids", "attention_mask")]
        longer = torch.nn.functional.pad(inputs[name], (1, 2), value=padding)
        mask = torch.nn.functional.pad(mask, (1, 2))
        given |= {name: torch.where(mask.bool(), longer, padding)}
        given |= {name.replace("input_ids", "attention_mask"): mask}
    assert torch.equal(model(**given).logits, logits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["input_ids", "class_input_ids", *MASKS])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda given: given.tolist(),
        lambda given: given.numpy(),
        lambda given: True,
        lambda given: "ids",
        lambda given: given.to_sparse(),
        lambda given: given.to("meta"),
    ],
    ids=["list", "array", "bool", "string", "sparse", "meta"],
)
def test_what_is_no_tensor_is_named(kind: str, name: str, wrong: Callable[[Tensor], Any]) -> None:
    _, inputs, _ = called(kind)
    refuse(
        kind, WrongType, f"^{name} must be a .*tensor", **{name: wrong(inputs.get(name, inputs["input_ids"]))}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_those_of_the_architecture(kind: str) -> None:
    _, inputs, _ = called(kind)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for wrong in (ids[0], ids[0, 0], ids[None], ids.expand(3, 2, -1)):
        for own in (None, wrong.clone(), mask):
            message = rf"^input_ids must have the shape \[N, S\], got {re.escape(str(list(wrong.shape)))}"
            refuse(kind, WrongValue, message, input_ids=wrong, attention_mask=own)
    if kind != "bi-encoder":  # the reference's takes such ids
        for own in (None, mask[:1, None]):
            refuse(kind, WrongValue, "^input_ids must have", input_ids=ids[:1, None], attention_mask=own)
    refuse(kind, WrongValue, "^input_ids holds no text", input_ids=ids[:0], attention_mask=mask[:0])
    refuse(kind, WrongValue, "no token", input_ids=ids[:, :0], attention_mask=None)
    empty = mask.clone()
    empty[1] = 0
    refuse(kind, WrongValue, r"^input_ids\[1\] has no token that attention_mask", attention_mask=empty)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_has_the_shape_of_its_ids(kind: str) -> None:
    _, inputs, _ = called(kind)
    for name in names_of(kind, "attention_mask", "class_attention_mask"):
        mask, ids = inputs[name], inputs[MASKS[name]]
        for wrong in (mask[..., 1:], mask[:1], mask[0], mask[None], mask[:, None, None], mask.sum()):
            shapes = [re.escape(str(list(each.shape))) for each in (wrong, ids)]
            refuse(
                kind,
                WrongValue,
                f"^{name} {shapes[0]} does not fit {MASKS[name]} {shapes[1]}",
                **{name: wrong},
            )


@pytest.mark.parametrize("kind", APART)
def test_labels_of_their_own_fit_the_texts(kind: str) -> None:
    _, inputs, _ = called(kind)
    ids, mask = inputs["class_input_ids"], inputs["class_attention_mask"]
    for wrong in (ids[:1], torch.cat((ids, ids)), ids[:0]):
        message = rf"^class_input_ids {re.escape(str(list(wrong.shape)))} does not fit the 2 text"
        refuse(kind, WrongValue, message, class_input_ids=wrong, class_attention_mask=None, labels_mask=None)
    shape = r"\[N, K, S\]" if kind in BI_ENCODERS else r"\[N, S\]"
    for wrong in (ids[0], ids[None], ids[0, 0]):
        message = rf"^class_input_ids must have the shape {shape}"
        refuse(kind, WrongValue, message, class_input_ids=wrong, class_attention_mask=None)
    empty = mask.clone()
    empty[1] = 0
    place = r"\[1, 0\]" if kind in BI_ENCODERS else r"\[1\]"
    message = f"^class_input_ids{place} has no token that class_attention_mask counts"
    refuse(kind, WrongValue, message, class_attention_mask=empty)
    missing: dict[str, Any] = {"class_input_ids": None, "class_attention_mask": None, "labels_mask": None}
    refuse(kind, WrongType, "^class_input_ids is missing", **missing)


@pytest.mark.parametrize("kind", [kind for kind in APART if kind not in BI_ENCODERS])
def test_a_sequence_of_labels_without_a_label_is_named(kind: str) -> None:
    _, inputs, _ = called(kind)
    ids = inputs["class_input_ids"]
    marker = byte_tokenizer().convert_tokens_to_ids("<<LABEL>>")
    without = torch.where(torch.tensor([[False], [True]]) & (ids == marker), 9, ids)
    refuse(kind, WrongValue, r"^class_input_ids\[1\] holds no label", class_input_ids=without)


@pytest.mark.parametrize("kind", BI_ENCODERS)
def test_labels_mask_counts_a_label_of_every_text(kind: str) -> None:
    _, inputs, _ = called(kind)
    for wrong in (torch.zeros(2, 2), torch.tensor([[True, False], [False, False]])):
        row = int(wrong[0].any())
        refuse(kind, WrongValue, rf"^labels_mask\[{row}\] counts no label", labels_mask=wrong)
    for shape in ([2], [1, 2], [2, 1], [2, 5], [2, 2, 1], []):
        message = (
            rf"^labels_mask must have the shape \[N, K\], which is \[2, 2\].*got {re.escape(str(shape))}"
        )
        refuse(kind, WrongValue, message, labels_mask=torch.ones(shape))
    none: dict[str, Any] = {"class_input_ids": inputs["class_input_ids"][:, :0], "labels_mask": None}
    refuse(kind, WrongValue, "^class_input_ids .*holds no label", **none, class_attention_mask=None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("a", WrongType), (True, WrongType), (1.5, WrongType), ([2], WrongType),
        (0, WrongValue), (-1, WrongValue), (10**400, WrongValue), (10**10, WrongValue),
    ],
    ids=["string", "bool", "fraction", "list", "none", "negative", "endless", "large"],
)  # fmt: skip
def test_max_num_classes_is_a_whole_number(kind: str, wrong: Any, error: type[Exception]) -> None:
    refuse(kind, error, "^max_num_classes must be", max_num_classes=wrong)


@pytest.mark.parametrize("kind", ["uni-encoder", "decoder-kv", "encoder-decoder, BART"])
def test_tensors_for_labels_of_their_own_have_no_effect_elsewhere(kind: str) -> None:
    model, theirs = reference(kind), called(kind)[0]
    _, inputs, _ = called(kind)
    more = {"labels_mask": torch.tensor([[1, 0], [0, 1]])}
    if kind != "encoder-decoder, BART":
        more |= {"class_input_ids": inputs["input_ids"][:1], "class_attention_mask": torch.zeros(3)}
    for count in (None, 2, 5):
        given: Any = {**inputs, "max_num_classes": count}
        expected = theirs(**given)
        with torch.no_grad():
            shape = model(**given, **more).logits.shape
        found = theirs(**given, **more)
        assert found.logits.shape == shape and torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.uint8, torch.float32, torch.bfloat16])
def test_masks_of_every_dtype_count_alike(kind: str, dtype: torch.dtype) -> None:
    model, inputs, logits = called(kind)
    masks = {name: inputs[name].to(dtype) for name in names_of(kind, *MASKS)}
    assert torch.equal(model(**{**inputs, **masks}).logits, logits)
    ids = {name: inputs[name].int() for name in names_of(kind, "input_ids", "class_input_ids")}
    assert torch.equal(model(**{**inputs, **ids}).logits, logits)
    graded = inputs["attention_mask"].float().requires_grad_()
    assert torch.equal(model(**{**inputs, "attention_mask": graded}).logits, logits)


def test_a_bi_encoder_takes_texts_with_an_axis_of_one() -> None:
    model, inputs, logits = called("bi-encoder")
    given = {**inputs, **{name: inputs[name][:, None] for name in ("input_ids", "attention_mask")}}
    assert torch.equal(model(**given).logits, logits)
    with torch.no_grad():
        expected = families.reference("bi-encoder")(**{name: each[:1] for name, each in given.items()}).logits
    assert_same_logits(logits[:1].numpy(), expected.numpy())


@pytest.mark.parametrize("kind", BI_ENCODERS)
def test_slots_without_a_label_are_not_read(kind: str) -> None:
    model, inputs, logits = called(kind)
    given = {name: each[:1] for name, each in inputs.items()}
    given["class_input_ids"] = torch.nn.functional.pad(given["class_input_ids"], (0, 0, 1, 1), value=10**9)
    given["class_attention_mask"] = torch.nn.functional.pad(
        given["class_attention_mask"], (0, 0, 1, 0), value=1
    )
    given["class_attention_mask"] = torch.nn.functional.pad(given["class_attention_mask"], (0, 0, 0, 1))
    given["labels_mask"] = torch.tensor([[0, 1, 1, 0]])
    found = model(**given)
    assert torch.equal(found.logits[:, 1:3], logits[:1])
    assert found.class_mask.tolist() == [[0, 1, 1, 0]]


def test_every_slot_holds_a_label_by_default() -> None:
    """The reference's bi-encoder has as many logits as there are labels, whatever its configuration says."""
    model, inputs, logits = called("bi-encoder")
    assert torch.equal(model(**{**inputs, "labels_mask": None}).logits, logits)
