"""`encoder-decoder-cls`: the encoder reads the labels, the decoder the text, from left to right.

The text's vector is the decoder's state of its last token.
"""

from __future__ import annotations

from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.config import ModelConfig, refuse
from gliclass_fast.models.architectures import Output, encoder_decoder
from gliclass_fast.models.architectures.encoder_decoder import PARTS, RESIZES_VOCABULARY, backbones
from gliclass_fast.models.encoders import last_state
from gliclass_fast.models.pooling import whole

__all__ = ["PARTS", "RESIZES_VOCABULARY", "Architecture", "backbones", "check", "scorers"]


def scorers() -> list[str]:
    """Those of one text vector: there is no other."""
    return [name for name in encoder_decoder.scorers() if name != "cross-attn"]


def check(config: ModelConfig) -> None:
    """Refuses what the reference would ignore here."""
    encoder_decoder.check(config)
    refuse(config, config.architecture_type, use_lstm=False)


class Architecture(encoder_decoder.Architecture):
    causal = True

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """The encoder's last states, of the labels."""
        assert batch.label_prompts is not None
        return (last_state(self.encoder.states(batch.label_prompts)),)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Reads the text in the light of the labels and compares them."""
        assert batch.label_prompts is not None
        decoded = self.decoder(batch, encoded[0], whole(batch.label_prompts))
        return self._compare(decoded[batch.cu_seqlens[1:] - 1], encoded[0], batch)
