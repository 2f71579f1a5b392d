"""`encoder-decoder-cls`: the encoder reads the labels, and the decoder reads the text from left to right.

The text's vector is the decoder's hidden state of its last token.
"""

from __future__ import annotations

from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.models.architectures import Output, encoder_decoder
from gliclass_fast.models.decoders import Encoded
from gliclass_fast.models.pooling import whole


class Architecture(encoder_decoder.Architecture):
    ignored = (*encoder_decoder.Architecture.ignored, "use_lstm")
    causal = True

    @classmethod
    def scorers(cls) -> list[str]:
        """Lists the scorers of one text vector, as a text has only one here."""
        return [name for name in super().scorers() if name != "cross-attn"]

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """Returns the encoder's last hidden states of the labels."""
        assert batch.label_prompts is not None
        return (self.encoder.last_state(batch.label_prompts),)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Reads the text in the light of the labels and compares them."""
        assert batch.label_prompts is not None
        labels = batch.label_prompts
        decoded = self.decoder(batch, Encoded(encoded[0], whole(labels), labels.adapter_rows))
        return self._compare(decoded[batch.cu_seqlens[1:] - 1], encoded[0], batch)
