"""Architectures: they take a packed batch and return logits.

Each file holds one `Architecture`, which owns its options, its reader of requests, the prompts of a load
check, and the meaning of its embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.models.decoders import LanguageModel
from gliclass_fast.models.registry import Registry
from gliclass_fast.ops import Ops, OpsOf
from gliclass_fast.text.errors import WrongType
from gliclass_fast.text.padded import PaddedInputs
from gliclass_fast.text.readers import LabelVectors, Reader

Size = tuple[int, int]  # tokens and labels of a prompt
VectorsOf = Callable[[Sequence[EncodedPrompt]], Tensor]


@dataclass(frozen=True, slots=True)
class Output:
    """Holds what a forward pass gives; vectors are projected, and normalised where the model does so."""

    logits: Tensor  # [L]
    uncalibrated_logits: Tensor | None  # [L], for models with a calibrator only
    text_vectors: Tensor  # [N, C]; [T, C] with pooling "pass", [L, C] with GliZNet
    label_vectors: Tensor  # [L, C]

    def stacked_logits(self) -> Tensor:
        """Returns all logits as one tensor: float32 [1, L], or [2, L] with the uncalibrated ones second."""
        if self.uncalibrated_logits is None:
            return self.logits.float()[None]
        return torch.stack([self.logits, self.uncalibrated_logits]).float()


class Streamable(Protocol):
    """Says what streams ask of a network, whose texts may come in parts before their labels are read."""

    decoder: LanguageModel

    @property
    def reads_text(self) -> bool:
        """Tells whether labels are scored by the hidden states of the text, too, which no stream keeps."""
        ...

    def score_sections(self, rows: Tensor, sections: PackedBatch) -> Output:
        """Scores label sections by their last hidden states, [S, C]."""
        ...


class Network(nn.Module):
    """The base of all architectures, and all that a model asks of one."""

    # These say whether `encode` and `score` can be CUDA graphs: they then wait for no value and read only the
    # block of a batch; `encode` reads only fields whose length follows from the tokens (not cu_seqlens).
    encode_recordable = False
    score_recordable = False  # true only where `encode_recordable` is
    # The parts whose linear layers are told which adapter every row has; no adapter may change others.
    adapted: tuple[str, ...] = ("backbone",)
    # The arguments of a call with tensors, in the order in which the reference takes them by position.
    call_positions: tuple[str, ...] = ("input_ids", "attention_mask")
    # Whether `prepare_inputs` gives a plain dict for it, and no BatchEncoding, as in the reference.
    inputs_as_dict = False
    # Whether such a call takes texts as [N, 1, S] too, with an axis of slots as labels have it.
    takes_slot_axis = False
    # Whether the logits of tensors have `max_num_classes` columns; otherwise they have those of the text with
    # the most labels, all of which count.
    fixed_slots = True
    # These say how a batch is packed, see `pack`.
    whole_text = False
    label_offset = 0

    def __init__(self, config: Any, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        """Makes the network without its weights. checkpoint: what its tensors tell of the network's shape."""
        super().__init__()
        self.config, self.ops = config, ops

    @classmethod
    def backbones(cls) -> list[str]:
        """Lists the backbones that it goes with."""
        raise NotImplementedError

    @classmethod
    def scorers(cls) -> list[str]:
        """Lists the scorers that it goes with."""
        raise NotImplementedError

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Takes its tensors out of a checkpoint; raises CheckpointError unless all match."""
        raise NotImplementedError

    def label_vectors(self, batch: PackedBatch) -> Tensor:
        """Returns the vectors of labels, one per sequence, [N, C], where it has a label tower."""
        raise NotImplementedError

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """Returns what `score` needs of the tokens, [T, C] each."""
        raise NotImplementedError

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Compares labels and texts."""
        raise NotImplementedError

    def forward(self, batch: PackedBatch) -> Output:
        """Scores a packed batch."""
        return self.score(self.encode(batch), batch)

    def reader(self, tokenizer: Any, label_vectors: LabelVectors | None) -> Reader:
        """Returns what turns requests into prompts; architectures with a label tower take label_vectors."""
        raise NotImplementedError

    def probe(self, sizes: Sequence[Size], label_vectors: VectorsOf) -> list[EncodedPrompt]:
        """Returns prompts of random tokens, always the same, which show whether a dtype holds their values.

        A prompt has at most as many tokens as the model's window and as many labels as there is room for.
        label_vectors: returns the vectors of labels that are sequences of their own, [labels, C].
        """
        raise NotImplementedError

    def prompts_of_padded(
        self, inputs: PaddedInputs, most_labels: int, label_vectors: VectorsOf
    ) -> list[EncodedPrompt]:
        """Returns the prompts of what a stock model is called with.

        most_labels: the labels of a text that count at most, where it has `fixed_slots`.

        Raises TypeError where tensors are missing that the architecture needs.
        """
        raise WrongType("this model is called through its pipeline, not with tensors")

    def as_streamable(self) -> Streamable | None:
        """Returns the network for streams of text, None where it needs a text as a whole."""
        return None

    def text_embeddings(self, rows: Tensor, batch: PackedBatch) -> list[Tensor]:
        """Returns the embedding of every text, each [C], or [rows, C] where a text keeps several.

        rows: the text vectors of a pass, float32 on the host, where the batch is too.
        """
        raise NotImplementedError

    def description(self) -> dict[str, str]:
        """Says what it is, in the words of the table of supported models."""
        raise NotImplementedError


class ArchitectureModule(Protocol):
    """Says what a file of this folder holds."""

    Architecture: type[Network]


ARCHITECTURES: Registry[ArchitectureModule] = Registry(
    "architecture_type",
    __name__,
    (
        "bi-encoder",
        "bi-encoder-fused",
        "decoder-kv",
        "encoder-decoder",
        "encoder-decoder-cls",
        "uni-encoder",
    ),
    {"gliznet": "..gliznet.network"},  # its config.json has a form of its own
)
