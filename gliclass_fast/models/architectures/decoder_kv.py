"""`decoder-kv`: a language model reads the text, then the labels, from left to right; a scorer of its own
reads the hidden states of the labels in both directions.

What the model has read of a text can be kept, so that texts may arrive in chunks (see `streaming`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.config import ModelConfig, UnsupportedConfigError
from gliclass_fast.models import calibrator
from gliclass_fast.models.architectures import Output, Size, Streamable, VectorsOf
from gliclass_fast.models.architectures.base import EMBEDDINGS, IDS, GLiClassArchitecture, random_prompts
from gliclass_fast.models.decoder_kv.reasoning import Text
from gliclass_fast.models.decoder_kv.scorer import HEAD_WIDTH, Scorer
from gliclass_fast.models.decoders import LANGUAGE_MODELS, Tokens
from gliclass_fast.ops import Ops, OpsOf
from gliclass_fast.text.label_section import LabelsLast, labels_last, prompt_of_section_ids
from gliclass_fast.text.padded import PaddedInputs
from gliclass_fast.text.readers import LabelVectors, Reader

SCORER = "decoder-kv"
FIXED = {
    "scorer_type": SCORER,
    "pooling_strategy": "last",
    "class_token_pooling": "first",
    "embed_class_token": True,
    "extract_text_features": False,
    "prompt_first": False,
}


class Architecture(GLiClassArchitecture):
    registry = LANGUAGE_MODELS
    call_positions = (
        *IDS, "past_key_values", "labels", "return_dict", "use_cache", "use_recurrence",
        "max_recurrent_steps", "halt_threshold", "output_recurrent_logits", *EMBEDDINGS, "max_num_classes",
    )  # fmt: skip
    adapted = ("decoder",)
    fixed_slots = False
    inputs_as_dict = True
    fixed = FIXED
    resizes_vocabulary = True
    ignored = ("use_lstm", "squeeze_layers", "encoder_layer_id", "use_segment_embeddings", "multimodal")

    def __init__(self, config: ModelConfig, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        super().__init__(config, ops, checkpoint, ops_of)
        backbone_ops = ops_of(config.backbone_config)
        self.encode_recordable = backbone_ops.recordable
        self.decoder = LANGUAGE_MODELS[config.model_type].Decoder(config.backbone_config, backbone_ops)

    def make_scorer(self, config: ModelConfig, ops: Ops, ops_of: OpsOf) -> Scorer:
        return Scorer(config, ops, ops_of)

    @classmethod
    def check(cls, config: ModelConfig, given: Mapping[str, Any]) -> None:
        super().check(config, given)
        if not 0 <= config.sep_token_index < config.backbone_config.vocab_size:
            raise UnsupportedConfigError(
                f"sep_token_index={config.sep_token_index} with architecture_type='decoder-kv': it must be "
                f"one of the backbone's {config.backbone_config.vocab_size} tokens"
            )
        if config.hidden_size % max(1, config.hidden_size // HEAD_WIDTH):
            raise UnsupportedConfigError(
                f"hidden_size={config.hidden_size} with architecture_type='decoder-kv' does not divide into "
                f"{config.hidden_size // HEAD_WIDTH} heads; supported: multiples of that number"
            )

    @classmethod
    def backbones(cls) -> list[str]:
        return list(LANGUAGE_MODELS)

    @classmethod
    def scorers(cls) -> list[str]:
        return [SCORER]

    def load_weights(self, checkpoint: Checkpoint) -> None:
        module = LANGUAGE_MODELS[self.config.model_type]
        checkpoint.load_weights(self.decoder, module.WEIGHTS, "model.decoder_model.", module.UNUSED)
        self.scorer.load_weights(checkpoint, "model.scorer.")
        if self.calibrator is not None:
            checkpoint.load_weights(self.calibrator, calibrator.WEIGHTS, "calibrator.")
        checkpoint.assert_all_used()

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """Returns what the last layer's second half needs of texts and labels, [T, *] each."""
        tokens = Tokens(
            batch.token_ids, batch.positions, batch.sequences.causal(), batch.max_seqlen, batch.adapter_rows
        )
        x, attended = self.decoder.last_attention(tokens)
        return x, attended

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Compares labels and texts by the rows of the label sections, which follow the text parts."""
        places, adapters = section_places(batch), batch.adapter_rows
        assert batch.label_prompts is not None
        if self.reads_text:
            x, attended = encoded
            rows = self.decoder.last_feed_forward(x, attended, adapters)
            return self.score_sections(rows[places], batch.label_prompts, Text(rows, batch.text_spans))
        x, attended = (state[places] for state in encoded)
        own = self.decoder.last_feed_forward(x, attended, None if adapters is None else adapters.at(places))
        return self.score_sections(own, batch.label_prompts)

    @property
    def reads_text(self) -> bool:
        """Tells whether the scorer looks at the hidden states of the text once more."""
        return bool(self.scorer.reads_text)

    def as_streamable(self) -> Streamable:
        return self

    def score_sections(self, rows: Tensor, sections: PackedBatch, text: Text | None = None) -> Output:
        """Scores label sections by their hidden states, [S, C].

        text: the hidden states of the texts, which some checkpoints look at once more.
        """
        logits, texts, labels = self.scorer(rows, sections, text)
        return self.calibrated(logits, texts, labels, sections)

    def reader(self, tokenizer: Any, label_vectors: LabelVectors | None) -> Reader:
        return LabelsLast(tokenizer, self.config)

    def prompts_of_padded(
        self, inputs: PaddedInputs, most_labels: int, label_vectors: VectorsOf
    ) -> list[EncodedPrompt]:
        return [prompt_of_section_ids(ids, self.config) for ids in inputs.texts()]

    def probe(self, sizes: Sequence[Size], label_vectors: VectorsOf) -> list[EncodedPrompt]:
        markers = self.config.class_token_index, self.config.sep_token_index
        prompts = []
        for each in random_prompts(self.config.backbone_config, sizes, markers):
            # the same tokens, of which those from the first marker on become the labels' section
            labels = each.token_ids[1 : each.text_start]
            section = np.concatenate((labels, each.token_ids[each.text_start :][:1]))
            text = each.token_ids[each.text_start + 1 :]
            prompts.append(labels_last(text, self.config.sep_token_index, section, each.label_spans - 1))
        return prompts


def section_places(batch: PackedBatch) -> Tensor:
    """Returns which tokens those of all label sections are, [S]."""
    sections = batch.label_prompts
    assert sections is not None
    places = torch.arange(len(sections.positions), dtype=torch.int32, device=sections.block.device)
    ends = sections.cu_seqlens[1:]
    owner = torch.searchsorted(ends.contiguous(), places, right=True)
    before = batch.cu_seqlens[1 : 1 + len(ends)] - ends  # tokens of texts, up to every section's own
    return places + before[owner]
