"""`bi-encoder-fused`: label vectors stand for the word embeddings of <<LABEL>> tokens in the text's sequence.

The scorer compares the text with what the text tower makes of those tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.models.architectures import Output, bi_encoder
from gliclass_fast.text.errors import WrongValue
from gliclass_fast.text.padded import PaddedInputs, marked_prompt
from gliclass_fast.text.readers import FusedSequence, LabelVectors, Reader


class Architecture(bi_encoder.Architecture):
    takes_slot_axis = False
    needs_markers = True
    encodes_labels = True

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        assert batch.label_vectors is not None
        inputs_embeds = self.texts.backbone.word_embeddings(batch.token_ids)
        inputs_embeds[batch.label_spans[:, 0]] = batch.label_vectors
        return self.texts.encode(batch, inputs_embeds)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        labels = self.texts.rows(encoded, batch.label_spans[:, 0], batch)
        return self._compare(self.texts.pool(encoded, batch), labels, batch)

    def reader(self, tokenizer: Any, label_vectors: LabelVectors | None) -> Reader:
        assert label_vectors is not None
        return FusedSequence(tokenizer, self.config, label_vectors)

    def _padded_texts(self, inputs: PaddedInputs, counts: list[int]) -> list[EncodedPrompt]:
        texts = [marked_prompt(ids, self.config, len(ids)) for ids in inputs.texts()]
        if [text.num_labels for text in texts] != counts:
            raise WrongValue("input_ids needs one label marker for every label that labels_mask counts")
        return texts
