"""Architectures: a packed batch in, logits out.

Each file holds one `Architecture`, which owns how it is read: its options, its reader of requests, what a
load check runs, and the meaning of its embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.models.registry import Registry
from gliclass_fast.ops import Ops
from gliclass_fast.text.readers import LabelVectors, Reader

OpsOf = Callable[[Any], Ops]  # the operations of a backbone, from its own Config
Size = tuple[int, int]  # tokens and labels of a prompt


@dataclass(frozen=True, slots=True)
class Output:
    """What a forward pass gives. Vectors are projected, and normalised where the model normalises."""

    logits: Tensor  # [L]
    uncalibrated_logits: Tensor | None  # [L], of models with a calibrator
    text_vectors: Tensor  # [N, C]; [T, C] with pooling "pass", [L, C] with GliZNet
    label_vectors: Tensor  # [L, C]

    def stacked_logits(self) -> Tensor:
        """All logits as one tensor: float32 [1, L], or [2, L] with the uncalibrated ones second."""
        if self.uncalibrated_logits is None:
            return self.logits.float()[None]
        return torch.stack([self.logits, self.uncalibrated_logits]).float()


class Network(Protocol):
    """What a model asks of an architecture; `forward` is `score(encode(batch), batch)`.

    An architecture with a label tower also has `label_vectors(batch)`, which gives the vectors of labels that
    are sequences of their own.
    """

    # Whether `encode` and `score` can be CUDA graphs: they wait for no value and read nothing but the block
    # of a batch; `encode` reads of it only what there is per token (not cu_seqlens, whose length varies).
    encode_recordable: bool
    score_recordable: bool  # only where `encode` is

    def __init__(self, config: Any, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None: ...

    @classmethod
    def backbones(cls) -> list[str]:
        """The backbones that it goes with."""
        ...

    @classmethod
    def scorers(cls) -> list[str]:
        """The scorers that it goes with."""
        ...

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Takes its tensors out of a checkpoint; raises CheckpointError unless all match."""
        ...

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """What `score` needs of the tokens, [T, C] each."""
        ...

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Compares labels and texts."""
        ...

    def forward(self, batch: PackedBatch) -> Output:
        """Scores a packed batch."""
        ...

    def reader(self, tokenizer: Any, label_vectors: LabelVectors | None) -> Reader:
        """What turns requests into prompts. label_vectors: for architectures with a label tower."""
        ...

    def probe(
        self, sizes: Sequence[Size], label_vectors: Callable[[Sequence[EncodedPrompt]], Tensor]
    ) -> list[EncodedPrompt]:
        """Prompts of random tokens, always the same, to see whether a dtype holds their values.

        A prompt has at most as many tokens as the model's window and as many labels as there is room for.
        label_vectors: gives the vectors of labels that are sequences of their own, [labels, C].
        """
        ...

    def text_embeddings(self, output: Output, batch: PackedBatch) -> list[Tensor]:
        """The embedding of every text, each [C], or [rows, C] where a text keeps several."""
        ...

    def description(self) -> dict[str, str]:
        """What it is, in the words of the table of supported models."""
        ...


class ArchitectureModule(Protocol):
    """What a file of this folder gives."""

    Architecture: type[Network]


ARCHITECTURES: Registry[ArchitectureModule] = Registry(
    "architecture_type",
    "gliclass_fast.models",
    {
        "bi-encoder": "architectures.bi_encoder",
        "bi-encoder-fused": "architectures.bi_encoder_fused",
        "encoder-decoder": "architectures.encoder_decoder",
        "encoder-decoder-cls": "architectures.encoder_decoder_cls",
        "gliznet": "gliznet.network",  # its config.json is of a kind of its own
        "uni-encoder": "architectures.uni_encoder",
    },
)
