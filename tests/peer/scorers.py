"""The reference's scorer classes, over padded rows: ours score a packed batch without the padding."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.config import ModelConfig
from gliclass_fast.models import stages
from gliclass_fast.models.layers import Embedding, Norm
from gliclass_fast.models.scorers import SCORERS
from gliclass_fast.ops import Ops, choose_ops
from gliclass_fast.runtime.packing import pack


def config_of(hidden_size: int, **options: Any) -> ModelConfig:
    return ModelConfig(
        architecture_type="uni-encoder",
        model_type="deberta-v2",
        backbone_config=SimpleNamespace(hidden_size=hidden_size),
        hidden_size=hidden_size,
        vocab_size=0,
        class_token_index=0,
        text_token_index=0,
        example_token_index=0,
        **options,
    )


def batch_of(lengths: list[int], labels: list[int]) -> PackedBatch:
    """Packs prompts of so many tokens and labels; only their bounds count here."""
    return pack(
        [
            EncodedPrompt.of_text(np.zeros(length, dtype=np.int32), count)
            for length, count in zip(lengths, labels, strict=True)
        ],
        whole_text=True,
    )


def initialized(module: nn.Module) -> nn.Module:
    """Gives norms and embeddings their usual first values; linear layers have theirs already."""
    for part in module.modules():
        if isinstance(part, Norm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, Embedding):
            nn.init.normal_(part.weight)
    return module


class Scorer(nn.Module):
    """Runs our scorer on the engine's operations, or on their references where a gradient is asked for."""

    scorer_type: str

    def __init__(self, hidden_size: int = 1, num_heads: int = 1, num_iteration: int = 1) -> None:
        super().__init__()
        config = config_of(hidden_size, scorer_type=self.scorer_type, scorer_num_heads=num_heads)
        differentiable = choose_ops("cpu", torch.float32, "reference")
        self.slow = initialized(self._new(config, differentiable))
        self.fast = self._new(config, choose_ops("cpu", torch.float32))
        self.fast.load_state_dict(deepcopy(self.slow.state_dict()))
        for scorer in (self.slow, self.fast):
            prepare(scorer)
        self.num_iteration = num_iteration

    def _new(self, config: ModelConfig, ops: Ops) -> nn.Module:
        return SCORERS[self.scorer_type].Scorer(config, ops)

    def forward(self, text_rep: Tensor, label_rep: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """Maps texts [N, C] or, with their mask [N, S], [N, S, C], and labels [N, L, C] to logits [N, L]."""
        count, num_labels, width = label_rep.shape
        lengths, text = [1] * count, text_rep
        if text_rep.dim() == 3:
            kept = torch.ones(text_rep.shape[:2], dtype=torch.bool) if text_mask is None else text_mask
            lengths, text = kept.sum(1).tolist(), text_rep[kept]
        batch = batch_of(lengths, [num_labels] * count)
        scorer = self.slow if text_rep.requires_grad or label_rep.requires_grad else self.fast
        labels = label_rep.reshape(-1, width)
        for _ in range(self.num_iteration - 1):
            labels = self._retrieve(scorer, text, labels, batch)
        return scorer(text, labels, batch).view(count, num_labels)

    @staticmethod
    def _retrieve(scorer: Any, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        """Returns the labels after one retrieval of `hopfield`: they are what its first layer reads."""
        found: list[Tensor] = []
        hook = scorer.first.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
        scorer(text, labels, batch)
        hook.remove()
        return found[0]


def prepare(module: nn.Module) -> None:
    """Folds and packs weights, as a loaded network does."""
    stages.fold(module)
    stages.pack(module)


CLASSES = {
    "CrossAttnScorer": "cross-attn",
    "HopfieldScorer": "hopfield",
    "MLPScorer": "mlp",
    "ScorerDot": "simple",
    "ScorerWeightedDot": "weighted-dot",
}
NAMES = {theirs: type(theirs, (Scorer,), {"scorer_type": ours}) for theirs, ours in CLASSES.items()}
