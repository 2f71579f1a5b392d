"""`bi-encoder-fused`: label vectors stand for the word embeddings of <<LABEL>> tokens in the text's sequence.

The scorer compares the text with what the text tower makes of those tokens.
"""

from __future__ import annotations

from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.models.architectures import Output, bi_encoder
from gliclass_fast.models.architectures.bi_encoder import PARTS, RESIZES_VOCABULARY, backbones, check, scorers

__all__ = ["PARTS", "RESIZES_VOCABULARY", "Architecture", "backbones", "check", "scorers"]


class Architecture(bi_encoder.Architecture):
    encodes_labels = True

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        assert batch.label_vectors is not None
        words = self.texts.backbone.words(batch.token_ids)
        words[batch.label_spans[:, 0]] = batch.label_vectors
        return self.texts.encode(batch, words)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        labels = self.texts.rows(encoded, batch.label_spans[:, 0])
        return self._compare(self.texts.pool(encoded, batch), labels, batch)
