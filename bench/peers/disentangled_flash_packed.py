"""The reference package on disentangled-flash's encoder: the encoder itself runs without padding."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from gliclass_fast.bench.contenders import Contender, Setting, Stock

NAME = "disentangled-flash (packed)"
PACKAGES = ("gliclass", "disentangled_flash")
SAME_MODEL = True


def unsuitable(setting: Setting) -> str | None:
    return None if setting.model_type == "deberta-v2" else "for DeBERTa only"


def build(setting: Setting) -> Contender:
    from disentangled_flash import enable_deberta_inference

    model = setting.copy_of_model()
    backbone = model.model.encoder_model
    enable_deberta_inference(backbone, backend="torch" if setting.device == "cpu" else "triton")
    backbone.encoder = _PackedEncoder(backbone.encoder)
    return Stock(setting, model)


class _PackedEncoder(nn.Module):
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
