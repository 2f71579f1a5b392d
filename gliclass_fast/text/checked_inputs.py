"""Checked inputs: the tensors that a stock model is called with, each copied to the host once.

Values are checked on the host alone, as a check on a GPU would wait for it once more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.config import ModelConfig
from gliclass_fast.text.arguments import whole_number
from gliclass_fast.text.errors import WrongType, WrongValue
from gliclass_fast.text.padded import PaddedInputs, PaddedRows

MOST_LABEL_SLOTS = 2**20  # label slots of a text; no window has room for so many labels
WHOLE_NUMBERS = (
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip


def check_label_slots(value: Any) -> int | None:
    """Returns `max_num_classes` as an int or None; raises WrongType, or WrongValue outside 1 to 2**20."""
    if value is None:
        return None
    slots = whole_number(value, "max_num_classes")
    if slots > MOST_LABEL_SLOTS:
        raise WrongValue(f"max_num_classes must be at most {MOST_LABEL_SLOTS}")
    return slots


def check_inputs(
    config: ModelConfig,
    input_ids: Any,
    attention_mask: Any = None,
    class_input_ids: Any = None,
    class_attention_mask: Any = None,
    labels_mask: Any = None,
    takes_slot_axis: bool = False,
) -> PaddedInputs:
    """Returns what a model of this configuration is called with; N texts, S tokens, K label slots.

    Where the labels are in `input_ids`, as the reference has it, the other tensors have no effect, nor has
    `labels_mask` where they are one sequence.

    Args:
        config: that of the model.
        input_ids: int [N, S], or [N, 1, S] with takes_slot_axis.
        attention_mask: of any dtype, as input_ids; default: no padding.
        class_input_ids: int [N, K, S'] for bi-encoders, [N, S'] for encoder-decoders.
        class_attention_mask: of any dtype, as class_input_ids; default: no padding.
        labels_mask: of any dtype, [N, K], for bi-encoders; default: every slot holds a label.
        takes_slot_axis: whether the model's architecture takes that.

    Raises:
        WrongType: an argument is missing, is no dense tensor, or holds ids that are no whole numbers.
        WrongValue: a tensor has another shape, a text has no token or no label slot, or a token that counts
            is not in the vocabulary or is one too many.
    """
    masks = {"class_attention_mask": class_attention_mask, "labels_mask": labels_mask}
    for name, mask in {"attention_mask": attention_mask, **masks}.items():
        if mask is not None:
            check_dense(name, mask)
    _check_ids("input_ids", input_ids)
    _check_ids("class_input_ids", class_input_ids)
    if input_ids is None:
        raise WrongType("input_ids is missing: `prepare_inputs` of a pipeline makes it")

    if takes_slot_axis:
        input_ids, attention_mask = (_squeezed(each) for each in (input_ids, attention_mask))
    _check_shape("input_ids", input_ids, "N, S")
    _check_mask("attention_mask", attention_mask, "input_ids", input_ids)
    if len(input_ids) == 0:
        raise WrongValue("input_ids holds no text")
    text_rows = _read_rows("input_ids", input_ids, "attention_mask", attention_mask, config.backbone_config)

    labels_config = config.label_backbone_config or config.decoder_config
    if labels_config is None:
        return PaddedInputs(text_rows)
    if class_input_ids is None:
        raise WrongType(
            "class_input_ids is missing: this architecture is called with class_input_ids and "
            "class_attention_mask"
        )
    towers = config.label_backbone_config is not None
    _check_shape("class_input_ids", class_input_ids, "N, K, S" if towers else "N, S")
    _check_mask("class_attention_mask", class_attention_mask, "class_input_ids", class_input_ids)
    if (texts := len(input_ids)) != len(class_input_ids):
        raise WrongValue(
            f"class_input_ids {list(class_input_ids.shape)} does not fit the {texts} text(s) of input_ids"
        )
    used = _read_slots(labels_mask, class_input_ids) if towers else None
    label_rows = _read_rows(
        "class_input_ids", class_input_ids, "class_attention_mask", class_attention_mask, labels_config, used
    )
    return PaddedInputs(text_rows, label_rows, used)


def _squeezed(tensor: Any) -> Any:
    """Returns [N, S] of [N, 1, S], and everything else as it is."""
    return tensor[:, 0] if tensor is not None and tensor.shape[1:-1] == (1,) else tensor


def check_dense(name: str, value: Any) -> None:
    """Raises WrongType unless a value is a tensor whose values lie in memory as an array's do."""
    if not isinstance(value, Tensor):
        raise WrongType(f"{name} must be a tensor, got {type(value).__name__}")
    if value.layout is not torch.strided or value.is_nested or value.is_meta:
        raise WrongType(f"{name} must be a dense tensor with values: it is sparse, nested or on 'meta'")


def _check_ids(name: str, value: Any) -> None:
    if value is None:
        return
    check_dense(name, value)
    if value.dtype not in WHOLE_NUMBERS:
        raise WrongType(f"{name} must hold whole numbers, such as those of int64, got {value.dtype}")


def _check_shape(name: str, tensor: Tensor, letters: str) -> None:
    if tensor.dim() != len(letters.split()):
        raise WrongValue(f"{name} must have the shape [{letters}], got {list(tensor.shape)}")


def _check_mask(name: str, mask: Tensor | None, ids_name: str, ids: Tensor) -> None:
    if mask is not None and mask.shape != ids.shape:
        raise WrongValue(f"{name} {list(mask.shape)} does not fit {ids_name} {list(ids.shape)}")


def _read_slots(labels_mask: Tensor | None, class_input_ids: Tensor) -> np.ndarray:
    """Returns which label slots hold a label, bool [N, K]; every text must have one."""
    shape = class_input_ids.shape[:2]
    if shape[1] == 0:
        raise WrongValue(f"class_input_ids {list(class_input_ids.shape)} holds no label")
    if labels_mask is None:
        return np.ones(shape, dtype=bool)
    if labels_mask.shape != shape:
        raise WrongValue(
            f"labels_mask must have the shape [N, K], which is {list(shape)} in class_input_ids, got "
            f"{list(labels_mask.shape)}"
        )
    used = _read_mask(labels_mask)
    if place := _first(used.sum(axis=1) == 0):
        raise WrongValue(f"labels_mask{place} counts no label")
    return used


def _read_mask(mask: Tensor) -> np.ndarray:
    # torch makes the values bool, as NumPy has no bfloat16
    kept: np.ndarray = mask.bool().cpu().numpy()
    return kept


def _read_rows(
    name: str,
    token_ids: Tensor,
    mask_name: str,
    mask: Tensor | None,
    backbone: Any,
    used: np.ndarray | None = None,
) -> PaddedRows:
    """Returns ids [..., S] on the host, once those that count are known to be tokens of a backbone.

    backbone: its `BackboneConfig`. used: bool [...], False for the rows that nothing reads.
    """
    ids = token_ids.cpu().numpy()
    kept = np.ones(ids.shape, dtype=bool) if mask is None else _read_mask(mask)
    if used is not None:
        kept = kept & used[..., None]
    counts: np.ndarray = kept.sum(axis=-1)
    empty: np.ndarray = counts == 0
    if place := _first(empty if used is None else empty & used):
        raise WrongValue(f"{name}{place} has no token that {mask_name} counts")
    if place := _first(kept & ((ids < 0) | (ids >= backbone.vocab_size))):
        raise WrongValue(
            f"{name}{place} is {ids[tuple(place)]}, which is no token: the vocabulary of this model ends at "
            f"{backbone.vocab_size - 1}"
        )
    longest = None if backbone.positions_grow else backbone.max_positions
    if longest is not None and (place := _first(counts > longest)):
        raise WrongValue(f"{name}{place} has {counts[tuple(place)]} tokens: this model reads up to {longest}")
    return PaddedRows(ids.astype(np.int32), kept)


def _first(wrong: np.ndarray) -> list[int] | None:
    """Returns the place of the first True, None where there is none."""
    found: list[list[int]] = np.argwhere(wrong)[:1].tolist()
    return found[0] if found else None
