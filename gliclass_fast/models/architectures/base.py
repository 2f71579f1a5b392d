"""The base of all GLiClass architectures: they share a scorer, a calibrator, prompts and embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt, PackedBatch, consecutive_spans
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.config import POOLINGS, ModelConfig, UnsupportedConfigError, refuse
from gliclass_fast.models import calibrator
from gliclass_fast.models.architectures import Network, Output, Size, VectorsOf
from gliclass_fast.models.encoders import ENCODERS
from gliclass_fast.models.pooling import normalize_min_eps
from gliclass_fast.models.scorers import SCORERS, check_scorer
from gliclass_fast.ops import Ops, OpsOf

# arguments of calls with tensors, which the reference's models take one after another
IDS = ("input_ids", "attention_mask")
IDS_OF_LABELS = ("class_input_ids", "class_attention_mask")
STATES = ("output_attentions", "output_hidden_states")
EMBEDDINGS = ("output_text_embeddings", "output_class_embeddings")
OPTIONS = ("normalize_features", "use_segment_embeddings", "use_lstm", "squeeze_layers", "use_calibrator")


class GLiClassArchitecture(Network):
    """Takes its logits from a scorer, and from a calibrator where there is one."""

    # what it reads of config.json beside the backbone: "decoder", "label_backbone"
    parts: tuple[str, ...] = ()
    registry: Mapping[str, Any] = ENCODERS  # where its backbones are
    fixed: Mapping[str, Any] = {}  # options that have one meaning here, whatever config.json says
    resizes_vocabulary = False  # the reference brings the embedding to config.json's own vocab_size
    needs_markers = True  # its prompts hold <<LABEL>> and <<SEP>> tokens
    encodes_labels = False  # label vectors stand for word embeddings in the text's sequence
    normalization = staticmethod(normalize_min_eps)  # what `normalize_features` does to vectors
    ignored: tuple[str, ...] = ()  # options that the reference ignores here, and the engine refuses

    config: ModelConfig

    def __init__(self, config: ModelConfig, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        super().__init__(config, ops, checkpoint, ops_of)
        self.whole_text = not config.extract_text_features
        self.label_offset = 0 if config.embed_class_token else 1
        self.scorer = self.make_scorer(config, ops, ops_of)
        self.calibrator = calibrator.Calibrator(config, ops) if config.use_calibrator else None

    def make_scorer(self, config: ModelConfig, ops: Ops, ops_of: OpsOf) -> Any:
        """Makes the scorer, without its weights."""
        return SCORERS[config.scorer_type].Scorer(config, ops)

    @classmethod
    def check(cls, config: ModelConfig, given: Mapping[str, Any]) -> None:
        """Raises UnsupportedConfigError for options that do not go with the architecture or its scorer.

        given: what config.json holds, as some of its options have no field in `config`.
        """
        backbone = config.backbone_config
        for option in ("class_token_index", "text_token_index"):
            index = getattr(config, option)
            if cls.needs_markers and not 0 <= index < backbone.vocab_size:
                raise UnsupportedConfigError(
                    f"{option}={index} is not one of the backbone's {backbone.vocab_size} tokens"
                )
        width = backbone.hidden_size
        replaced = config.use_segment_embeddings or cls.encodes_labels
        if replaced and getattr(backbone, "embedding_size", width) != width:
            raise UnsupportedConfigError(
                f"encoder_config.embedding_size={backbone.embedding_size} with use_segment_embeddings="
                f"{config.use_segment_embeddings} and architecture_type={config.architecture_type!r} is not "
                f"supported; supported: {width}, the hidden_size"
            )
        default = {"encoder_layer_id": -1}
        refuse(config, config.architecture_type, **{name: default.get(name, False) for name in cls.ignored})
        if config.use_calibrator and config.pooling_strategy == "pass":
            raise UnsupportedConfigError(
                "use_calibrator with pooling_strategy='pass': it reads one text vector; supported: "
                + ", ".join(POOLINGS[:-1])
            )
        if config.hidden_size != width and (
            config.use_lstm or config.use_calibrator or config.scorer_type != "simple"
        ):
            otherwise = (
                ""
                if "simple" not in cls.scorers()
                else ("; another one with scorer_type='simple' alone, without use_lstm and use_calibrator")
            )
            raise UnsupportedConfigError(
                f"hidden_size={config.hidden_size} differs from the backbone's; supported: {width}{otherwise}"
            )
        if config.scorer_type in SCORERS:  # decoder-kv has one of its own
            check_scorer(config, given)

    def load_comparison(self, checkpoint: Checkpoint) -> None:
        """Takes the scorer's and the calibrator's tensors out of a checkpoint."""
        weights = SCORERS[self.config.scorer_type].WEIGHTS
        checkpoint.load_weights(self.scorer, weights, "model.scorer.")
        if self.calibrator is not None:
            checkpoint.load_weights(self.calibrator, calibrator.WEIGHTS, "calibrator.")

    def compare(self, texts: Tensor, labels: Tensor, batch: PackedBatch, scale: Tensor | None) -> Output:
        """Scores texts [N, C] or [T, C] and labels [L, C]; scale: a factor of the logits, or None."""
        logits = self.scorer(texts, labels, batch)
        return self.calibrated(logits if scale is None else logits * scale, texts, labels, batch)

    def calibrated(self, logits: Tensor, texts: Tensor, labels: Tensor, batch: PackedBatch) -> Output:
        """Returns the output of these logits, which a calibrator changes where there is one."""
        if self.calibrator is None:
            return Output(logits, None, texts, labels)
        return Output(self.calibrator(texts, labels, logits, batch), logits, texts, labels)

    def normalized(self, vectors: Tensor) -> Tensor:
        """Returns the vectors, at unit length where the model normalises them."""
        return self.normalization(vectors) if self.config.normalize_features else vectors

    def probe(self, sizes: Sequence[Size], label_vectors: VectorsOf) -> list[EncodedPrompt]:
        markers = (self.config.class_token_index, self.config.text_token_index)
        return random_prompts(self.config.backbone_config, sizes, markers if self.needs_markers else None)

    def text_embeddings(self, rows: Tensor, batch: PackedBatch) -> list[Tensor]:
        if self.config.pooling_strategy != "pass":
            return list(rows)
        return [rows[start:end] for start, end in pairwise(batch.cu_seqlens.tolist())]

    def description(self) -> dict[str, str]:
        config = self.config
        row = {
            "architecture": config.architecture_type,
            "backbone": config.model_type,
            "scorer": config.scorer_type,
            "pooling": config.pooling_strategy,
            "label pooling": config.class_token_pooling,
            "options": ", ".join(name for name in OPTIONS if getattr(config, name)) or "none",
        }
        return row if config.label_model_type is None else row | {"label backbone": config.label_model_type}


def random_prompts(
    backbone_config: Any, sizes: Sequence[Size], markers: tuple[int, int] | None
) -> list[EncodedPrompt]:
    """Returns prompts of random tokens, always the same; `markers` are the ids before labels and the text."""
    rng = np.random.default_rng(0)
    prompts = []
    for length, labels in sizes:
        longest = backbone_config.max_positions or length
        ids = rng.integers(0, backbone_config.vocab_size, min(length, longest), dtype=np.int32)
        # every label has its marker and one token
        spans = consecutive_spans([2] * min(labels, (len(ids) - 2) // 2), 1)
        text_start = int(spans[-1, 1])
        if markers is not None:
            ids[spans[:, 0]], ids[text_start] = markers
        prompts.append(EncodedPrompt(ids, text_start, spans))
    return prompts
