"""Other fast engines for the same models: the reference's model with its DeBERTa encoder replaced, in place.

Each is optional and has to be installed beside the reference: `pip install flashdeberta disentangled-flash`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput


def with_flashdeberta(model: Any) -> Any:
    """As `USE_FLASHDEBERTA=1` has the reference load it."""
    from flashdeberta import FlashDebertaV2Model

    stock = model.model.encoder_model
    flash = FlashDebertaV2Model(stock.config).to(stock.device, stock.dtype).eval()
    flash.load_state_dict(stock.state_dict())
    model.model.encoder_model = flash
    return model


class PackedEncoder(nn.Module):
    """disentangled-flash's encoder on sequences without padding, between padded buffers."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutput:
        from disentangled_flash import pack_padded_with_info, unpack_packed

        tokens, cu, info = pack_padded_with_info(hidden_states, attention_mask)
        packed = self.encoder.forward_packed(
            tokens, cu, info.max_seqlen, output_hidden_states=False, packed_info=info
        )
        length = hidden_states.shape[1]
        last, _ = unpack_packed(packed.last_hidden_state, cu, length, packed_info=info)
        return BaseModelOutput(last_hidden_state=last, hidden_states=(last,))


def with_disentangled_flash(model: Any, backend: str = "triton") -> Any:
    """backend: "torch" runs without a GPU."""
    from disentangled_flash import enable_deberta_inference

    backbone = model.model.encoder_model
    enable_deberta_inference(backbone, backend=backend)
    backbone.encoder = PackedEncoder(backbone.encoder)
    return model


# name -> what puts it into a reference model of its own
PEERS: dict[str, Callable[[Any], Any]] = {
    "flashdeberta": with_flashdeberta,
    "disentangled-flash, packed": with_disentangled_flash,
}
