"""The order in which the reference's models take the arguments of a call."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from gliclass_fast.config import all_by_name
from gliclass_fast.text.errors import WrongType

_IDS = ("input_ids", "attention_mask")
_IDS_OF_LABELS = ("class_input_ids", "class_attention_mask")
_STATES = ("output_attentions", "output_hidden_states")
_EMBEDDINGS = ("output_text_embeddings", "output_class_embeddings")
_POSITIONS_OF_BI_ENCODERS = (
    *_IDS, *_IDS_OF_LABELS, "labels_mask", "labels", *_EMBEDDINGS, "return_dict", "adapter_ids",
)  # fmt: skip
_POSITIONS_OF_ENCODER_DECODERS = (
    *_IDS, *_IDS_OF_LABELS, "inputs_embeds", "labels", *_STATES, *_EMBEDDINGS, "return_dict",
)  # fmt: skip
# by architecture_type
POSITIONS: dict[str, tuple[str, ...]] = {
    "uni-encoder": (
        *_IDS, "inputs_embeds", "labels", *_STATES, *_EMBEDDINGS, "return_dict", "max_num_classes",
    ),
    "bi-encoder": _POSITIONS_OF_BI_ENCODERS,
    "bi-encoder-fused": _POSITIONS_OF_BI_ENCODERS,
    "encoder-decoder": _POSITIONS_OF_ENCODER_DECODERS,
    "encoder-decoder-cls": _POSITIONS_OF_ENCODER_DECODERS,
    "decoder-kv": (
        *_IDS, "past_key_values", "labels", "return_dict", "use_cache", "use_recurrence",
        "max_recurrent_steps", "halt_threshold", "output_recurrent_logits", *_EMBEDDINGS, "max_num_classes",
    ),
}  # fmt: skip


def by_position_too(method: Callable[..., Any]) -> Callable[..., Any]:
    """Has a method of a model take arguments by position too, where the reference has them."""

    @wraps(method)
    def by_name(model: Any, *positional: Any, **named: Any) -> Any:
        # GliZNet has no architecture_type, and is not called with tensors
        names = POSITIONS.get(getattr(model.origin.config, "architecture_type", ""), _IDS)
        try:
            given = all_by_name(names, positional, named)
        except TypeError as error:
            raise WrongType(str(error)) from None
        return method(model, **given)

    return by_name
