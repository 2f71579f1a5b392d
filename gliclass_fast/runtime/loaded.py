"""LoadedNetwork: it holds a network with its weights on a device, and runs batches on it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.batch import Capacity, EncodedPrompt, PackedBatch
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.live import LiveTensors
from gliclass_fast.checkpoint.memory import Memory
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.models import stages
from gliclass_fast.models.architectures import ARCHITECTURES, Output, Size
from gliclass_fast.models.places import Places
from gliclass_fast.ops import Ops, choose_ops
from gliclass_fast.runtime.adapter_slots import AdapterSlots
from gliclass_fast.runtime.cuda_graphs import CudaRecorder
from gliclass_fast.runtime.dtype import computing, dtype_candidates
from gliclass_fast.runtime.graphs import MAX_TOKENS, GraphRunner
from gliclass_fast.runtime.packing import pack, run_batches
from gliclass_fast.runtime.settings import Settings
from gliclass_fast.runtime.transfer import PendingLogits, inference_on
from gliclass_fast.text.padded import PaddedInputs

logger = logging.getLogger(__name__)

# the tokens of a batch where nobody asks for another number; on a GPU as many as CUDA graphs take, and on a
# CPU any number near this one works
BATCH_TOKENS = {"cpu": 2048, "cuda": MAX_TOKENS}
_LEAST_TENSORS = 4  # of a layer: into and out of its attention and its feed-forward part
PROBE_SIZES: tuple[Size, ...] = ((512, 8), (64, 8))


class Embedded(NamedTuple):
    """Holds what a network makes of one prompt, in float32 on the host."""

    logits: np.ndarray  # [1, labels], or [2, labels] with the uncalibrated ones second
    text: np.ndarray  # as `Network.text_embeddings` describes it
    labels: np.ndarray  # [labels, C]


class LoadedNetwork:
    """Holds a network with its weights on one device; once it is built, only its CUDA graphs change.

    `network` is an architecture. `ops` holds the implementation of every operation (a backbone whose linear
    layers round has its own). `graphs` holds the CUDA graphs, where the network can run from them. `dtype` is
    that of the model, and `computes_in` that of what its layers pass on.
    """

    def __init__(
        self, config: Any, tensors: Mapping[str, Tensor], source: str, settings: Settings, dtype: torch.dtype
    ) -> None:
        """Builds the network from the tensors of a stock checkpoint, which error messages call `source`."""

        memory = tensors.memory if isinstance(tensors, LiveTensors) else Memory()

        @cache
        def ops_for(width: int, rounding: str | None) -> Ops:
            ops = choose_ops(self.device, self.computes_in, settings.backend, width, rounding)
            return ops.packing_into(memory.empty)

        self.config, self.dtype = config, dtype
        self.device: torch.device = settings.device
        self.computes_in, rounding = computing(dtype, settings)

        def ops_of(backbone_config: Any, rounding: str | None = rounding) -> Ops:
            return ops_for(backbone_config.head_width, rounding)

        self.ops = ops_of(config.backbone_config, None)
        self._own_threads = self.ops.own_threads
        self.graphs: GraphRunner | None = None
        checkpoint = Checkpoint(tensors, source, self.device, self.computes_in)
        _check_layers(config, len(tensors), source)
        architecture = ARCHITECTURES[config.architecture_type].Architecture
        with torch.device("meta"):
            self.network = architecture(config, self.ops, checkpoint, ops_of)
        self.network.load_weights(checkpoint)
        places = Places.find(self.network, checkpoint)
        stages.fold(self.network)
        self.places = places.without_folded(self.network)
        like = torch.empty(0, dtype=self.computes_in, device=self.device)
        self.adapter_slots = AdapterSlots(self.network, self.places, like, self.free_graphs)
        stages.pack(self.network)
        if isinstance(tensors, LiveTensors):
            tensors.separate(self.network)
        memory.trim()
        stages.bind(self.network)
        self.network.eval()

    def pack(
        self,
        prompts: Sequence[EncodedPrompt],
        capacity: Capacity | None = None,
        adapter_slots: Sequence[int] | None = None,
        of_labels: bool = False,
    ) -> PackedBatch:
        """Lays prompts end to end on the host, as the network takes them, and pads to a given capacity.

        adapter_slots: those of the prompts' adapters, as `AdapterSlots.lease` gives them. of_labels: they are
        labels, which a tower of their own reads. Raises IndexError for a token that has no embedding.
        """
        if adapter_slots is not None and capacity is not None:
            capacity = replace(capacity, adapted=True)
        read_by = self.config.label_backbone_config if of_labels else self.config.backbone_config
        return pack(
            prompts,
            capacity,
            adapter_slots=adapter_slots,
            whole_text=self.network.whole_text,
            label_offset=self.network.label_offset,
            pinned=self.device.type == "cuda",
            vocabulary=read_by.vocab_size,
        )

    def owners(self, prompts: Sequence[EncodedPrompt]) -> tuple[list[int] | None, int]:
        """Returns what `plan_batches` is told of the prompts' adapters."""
        if all(prompt.adapter is None for prompt in prompts):
            return None, 0
        numbers = [0 if prompt.adapter is None else prompt.adapter.number for prompt in prompts]
        return numbers, self.adapter_slots.most

    def batch_tokens(self, asked: int | None = None) -> int:
        """Returns the token budget of a batch: the one that is asked for, or that of the device.

        It is never more than CUDA graphs take, where there are any.
        """
        budget = asked or BATCH_TOKENS[self.device.type]
        return budget if self.graphs is None else min(budget, MAX_TOKENS)

    def _lease(self, prompts: Sequence[EncodedPrompt]) -> AbstractContextManager[list[int] | None]:
        """Keeps the prompts' adapters in their slots, which it yields; None where no prompt has one."""
        if all(prompt.adapter is None for prompt in prompts):
            return nullcontext()
        return self.adapter_slots.lease(prompts)

    def inference(self) -> AbstractContextManager[None]:
        """Enters what the network runs in, as `inference_on` describes it."""
        return inference_on(self.device, self._own_threads)

    def __call__(self, batch: PackedBatch) -> Output:
        """Runs a packed batch, which is on the host or on the device, without CUDA graphs."""
        with self.inference():
            return self.network.forward(batch.to(self.device))

    def score(self, prompts: Sequence[EncodedPrompt]) -> PendingLogits:
        """Launches a batch, from CUDA graphs where it can; `wait` then gives the logits of its labels."""
        with self.inference(), self._lease(prompts) as slots:
            if self.graphs is not None and (capacity := self.graphs.capacity_for(prompts)):
                return self.graphs(self.pack(prompts, capacity, slots))
            return PendingLogits.copy(self(self.pack(prompts, adapter_slots=slots)).stacked_logits())

    def embed(self, prompts: Sequence[EncodedPrompt]) -> list[Embedded]:
        """Runs a batch and returns logits and vectors of every prompt, in order."""
        with self.inference(), self._lease(prompts) as slots:
            batch = self.pack(prompts, adapter_slots=slots)
            output = self(batch)
            vectors = (output.stacked_logits(), output.text_vectors, output.label_vectors)
            copies = [PendingLogits.copy(each) for each in vectors]
        logits, rows, labels = (each.wait() for each in copies)  # while other threads give a GPU work
        with self.inference():
            texts = self.network.text_embeddings(torch.from_numpy(rows), batch)
        return [
            Embedded(logits[:, start:end], text.numpy(), labels[start:end])
            for text, (start, end) in zip(texts, pairwise(batch.cu_labels.tolist()), strict=True)
        ]

    def prompts_of_padded(self, inputs: PaddedInputs, most_labels: int) -> list[EncodedPrompt]:
        """Returns the prompts of what a stock model is called with, as the architecture makes them."""
        with self.inference():
            return self.network.prompts_of_padded(inputs, most_labels, self.label_vectors)

    def label_vectors(self, prompts: Sequence[EncodedPrompt], batch_tokens: int | None = None) -> Tensor:
        """Returns what a label tower makes of labels, each a sequence of its own: [labels, C], in order.

        batch_tokens: the token budget of a batch; default: that of the device.
        """

        def run(group: list[int]) -> Tensor:
            batch = self.pack([prompts[index] for index in group], of_labels=True)
            return self.network.label_vectors(batch.to(self.device))

        with self.inference():
            costs = [prompt.tokens for prompt in prompts]
            batches = run_batches(costs, self.batch_tokens(batch_tokens), run, self.free_graphs)
            groups, vectors = zip(*batches, strict=True)
            return torch.cat(vectors)[np.argsort(np.concatenate(groups))]

    def probe(self, sizes: Sequence[Size] = PROBE_SIZES) -> list[EncodedPrompt]:
        """Returns prompts of random tokens, always the same, as the network takes them."""
        with self.inference():
            return self.network.probe(sizes, self.label_vectors)

    def free_graphs(self) -> None:
        """Gives back the memory of CUDA graphs, which are recorded anew when they are next needed."""
        if self.graphs is not None:
            self.graphs.free()


def _check_layers(config: Any, tensors: int, source: str) -> None:
    """Raises CheckpointError before layers are built for which there are not enough tensors."""
    parts = (config.backbone_config, config.decoder_config, config.label_backbone_config)
    layers = sum(part.num_hidden_layers for part in parts if part is not None)
    if layers * _LEAST_TENSORS > tensors:
        raise CheckpointError(
            f"{source} does not match its configuration. It holds {tensors} tensors, and num_hidden_layers "
            f"is {layers}"
        )


def load(config: Any, tensors: Mapping[str, Tensor], source: str, settings: Settings) -> LoadedNetwork:
    """Builds a network in the first dtype that holds the values of a batch of random tokens.

    Raises CheckpointError where tensors and configuration do not match, and ValueError for settings that do
    not exist.
    """
    device = settings.device
    build = partial(LoadedNetwork, config, tensors, source, settings)
    # on a CPU loading leaves no threads of torch behind, for which a process that is forked later would wait
    with inference_on(device, own_threads=device.type == "cpu"):
        *first, last = dtype_candidates(settings.wanted_dtype, device, config, tensors)
        for dtype in first:
            loaded = build(dtype)
            if loaded(loaded.pack(loaded.probe())).stacked_logits().isfinite().all():
                break
            logger.info("%s overflows %s", source, dtype)
        else:
            loaded = build(last)
        if device.type == "cuda":
            if settings.cuda_graphs and loaded.network.encode_recordable:
                loaded.graphs = GraphRunner(loaded.network, device, CudaRecorder(device))
            torch.cuda.synchronize(device)  # other streams may use the weights from here on
    return loaded
