"""GLiClassModel: a checkpoint loaded on a device. The call is `model(PackedBatch) -> Output`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gliclass_fast.batch import Capacity, EncodedPrompt, PackedBatch
from gliclass_fast.checkpoint.files import read_json, resolve_folder
from gliclass_fast.checkpoint.lora import open_checkpoint
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.config import ModelConfig, component
from gliclass_fast.models.architectures import Output
from gliclass_fast.models.gliznet.config import GliznetConfig
from gliclass_fast.ops import Foldable, Ops, choose_ops, unavailable_reason
from gliclass_fast.runtime.dtype import PROBE_SIZES, Size, dtype_candidates, probe, probe_labels
from gliclass_fast.runtime.graphs import LAUNCHING, MAX_TOKENS, CudaRecorder, GraphRunner
from gliclass_fast.runtime.oom import run_batches
from gliclass_fast.runtime.packing import pack
from gliclass_fast.runtime.transfer import PendingLogits, stack_logits

logger = logging.getLogger(__name__)


class GLiClassModel:
    """Drop-in for `gliclass.GLiClassModel`, for inference.

    Built from stock weights for one device and dtype; `to` builds anew from the same weights. `config` holds
    the fields of the checkpoint's config.json, `ops.chosen` the implementation of every operation (outside an
    encoder in int8), `graphs` the CUDA graphs, where the model can run from them.
    """

    config: Any  # a ModelConfig or a GliznetConfig
    device: torch.device
    dtype: torch.dtype
    ops: Ops
    network: Any  # an Architecture
    graphs: GraphRunner | None

    def __init__(
        self,
        config: Any,
        read_tensors: Callable[[], Mapping[str, Tensor]],
        source: str,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        backend: str | None = None,
        cuda_graphs: bool = True,
        precision: str | None = None,
    ) -> None:
        if precision not in (None, "int8"):
            raise ValueError(f"precision {precision!r} is not supported; supported: None, 'int8'")
        if backend == "int8" or (precision is not None and backend is not None):
            raise ValueError("int8 is asked for as precision='int8', without a backend")
        self.config = config
        self._read_tensors, self._source, self._backend = read_tensors, source, backend
        self._dtype, self._cuda_graphs, self._precision = dtype, cuda_graphs, precision
        self._twin_lock = Lock()
        self._build(_with_index(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))))

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | Path,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        backend: str | None = None,
        cuda_graphs: bool = True,
        precision: str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        **hub: Any,
    ) -> GLiClassModel:
        """Loads a stock checkpoint from a folder or a Hugging Face repository.

        Args:
            path_or_repo_id: a folder with config.json and model.safetensors (or its shards), or a repository
                id.
            dtype: float32, float16 or bfloat16. Default: on a GPU float16, or bfloat16 where float16
                overflows; on a CPU float32, as 16 bit is slower and less exact on most. "auto": on a GPU what
                config.json asks for, else the stored dtype.
            device: default is the GPU where there is one.
            backend: one implementation to use for every operation it has; default: the table in `ops.py`.
            cuda_graphs: on a GPU, record the launches of batches of similar size and replay them.
            precision: "int8" runs the encoder's linear layers in int8, on CPUs. It changes scores a little:
                `gliclass-fast check --precision int8` shows how much on texts of yours.
            torch_dtype: an older name of dtype.
            hub: revision, token, cache_dir or local_files_only, for a download.

        Raises:
            CheckpointError: a file or tensor is missing, truncated, of the wrong shape, or a pickle.
            UnsupportedConfigError: the configuration asks for something the engine does not have.
            ValueError: unknown device, dtype or backend.
        """
        folder = resolve_folder(path_or_repo_id, **hub)
        return cls(
            read_config(read_json(folder)),
            partial(open_checkpoint, folder),
            str(folder),
            torch_dtype if dtype is None else dtype,
            device,
            backend,
            cuda_graphs,
            precision,
        )

    @classmethod
    def from_gliclass(
        cls,
        model: Any,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        backend: str | None = None,
        cuda_graphs: bool = True,
        precision: str | None = None,
    ) -> GLiClassModel:
        """Takes over an already loaded `gliclass.GLiClassModel`, by default with its dtype and device."""
        first = next(model.parameters())
        return cls(
            ModelConfig.from_hf(model.config.to_dict()),
            model.state_dict,
            "the gliclass model",
            dtype or first.dtype,
            device or first.device,
            backend,
            cuda_graphs,
            precision,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in another process too, is built anew from the stock weights."""
        given = self._dtype, self.device, self._backend, self._cuda_graphs, self._precision
        return type(self), (self.config, self._read_tensors, self._source, *given)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Inference mode, with this model's GPU as the current one and to itself: Triton launches there."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.device.type == "cuda":
                stack.enter_context(LAUNCHING)
                stack.enter_context(torch.cuda.device(self.device))
            yield

    def _build(self, device: torch.device) -> None:
        self.device, self.graphs = device, None
        self._twin: GLiClassModel | None = None
        with self.inference(), _one_thread() if device.type == "cpu" else nullcontext():
            self._build_here()
            if device.type == "cuda":
                torch.cuda.synchronize()  # other streams may use the weights from here on

    def _build_here(self) -> None:
        tensors, device = self._read_tensors(), self.device
        *first, last = dtype_candidates(self._dtype, device, self.config, tensors)
        for dtype in first:
            self._fill(tensors, dtype)
            if stack_logits(self(self.pack(self._probe()))).isfinite().all():
                break
            logger.info("%s overflows %s", self._source, dtype)
        else:
            self._fill(tensors, last)
        recordable = device.type == "cuda" and self._cuda_graphs and self.network.encode_recordable
        self.graphs = GraphRunner(self.network, device, CudaRecorder(device)) if recordable else None

    def in_float32(self) -> GLiClassModel:
        """This model in float32, for what overflows 16 bit: itself, or a twin, built on first need and kept.

        The twin is on the same device, without CUDA graphs, and on the same backend if that has float32. Its
        weights take twice the memory of those in 16 bit, beside them, until `to` builds this model anew.
        """
        if self.dtype is torch.float32:
            return self
        with self._twin_lock:
            if self._twin is None:
                try:
                    self._twin = self._build_twin()
                except torch.OutOfMemoryError:
                    logger.warning("out of memory for weights in float32: CUDA graphs give back theirs")
                    self.free_graphs()
                    self._twin = self._build_twin()
            return self._twin

    def _build_twin(self) -> GLiClassModel:
        backend, dtype, width = self._backend, torch.float32, head_width(self.config.encoder)
        if backend is not None and unavailable_reason(backend, self.device, dtype, width):
            backend = None
        return type(self)(
            self.config, self._read_tensors, self._source, dtype, self.device, backend, cuda_graphs=False
        )

    def _probe(self, sizes: Sequence[Size] = PROBE_SIZES) -> list[EncodedPrompt]:
        prompts = probe(self.config, sizes)
        if self.config.label_encoder is None:
            return prompts
        most = max(each.labels for each in prompts)
        vectors = self.label_vectors(probe_labels(self.config, most), batch_tokens=MAX_TOKENS)
        return [replace(each, label_vectors=vectors[: each.labels]) for each in prompts]

    def _fill(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        if self._precision is not None and self.device.type != "cpu":
            raise ValueError(f"precision {self._precision!r} runs on CPUs; give device='cpu'")

        def ops_of(backbone: Any, precision: str | None = None) -> Ops:
            return choose_ops(self.device, dtype, self._backend, head_width(backbone), precision)

        self.dtype, self.ops = dtype, ops_of(self.config.encoder)
        encoder_ops = partial(ops_of, precision=self._precision)
        checkpoint = Checkpoint(tensors, self._source)
        with torch.device("meta"):
            network = component("architectures", self.config.architecture_type).Architecture(
                self.config, self.ops, checkpoint, encoder_ops
            )
        network.fill(checkpoint, self.device, dtype)
        for module in list(network.modules()):
            if isinstance(module, Foldable):
                module.fold()
        packed = encoder_ops(self.config.encoder)
        of_encoder = {module for encoder in network.encoders for module in encoder.modules()}
        for module in network.modules():
            if isinstance(module, nn.Linear):
                pack_linear = (packed if module in of_encoder else self.ops).pack_linear
                module.weight = nn.Parameter(pack_linear(module.weight), requires_grad=False)
        self.network = network.eval()

    def pack(self, prompts: Sequence[EncodedPrompt], capacity: Capacity | None = None) -> PackedBatch:
        """Prompts laid end to end on the host, as this model takes them; padded to a capacity if given."""
        return pack(
            prompts,
            capacity,
            whole_text=not self.config.extract_text_features,
            label_offset=0 if self.config.embed_class_token else 1,
            pinned=self.device.type == "cuda",
        )

    def __call__(self, batch: PackedBatch) -> Output:
        """Runs a packed batch, on the host or on this model's device, without CUDA graphs."""
        with self.inference():
            output: Output = self.network.forward(batch.to(self.device))
            return output

    def score(self, prompts: Sequence[EncodedPrompt]) -> PendingLogits:
        """Launches a batch, from CUDA graphs where it can; `wait` gives the logits of its labels."""
        with self.inference():
            if self.graphs is not None and (room := self.graphs.room(prompts)):
                return self.graphs(self.pack(prompts, room))
            return PendingLogits.copy(stack_logits(self(self.pack(prompts))))

    def warm_up(
        self,
        tokens: Sequence[int],
        labels: Sequence[int] = (1,),
        prompts: Sequence[int] = (1,),
        record_others: bool = True,
    ) -> None:
        """Compiles and records what batches of these sizes need, before the first of them comes.

        Every combination of `tokens`, `labels` and `prompts`, each counted over a whole batch, is run with
        random tokens; it stands for its whole bucket (`GraphRunner.bucket`). A batch has a label a prompt at
        least, and prompts of 512 tokens at most.

        record_others: whether batches of other sizes will be recorded when they come, which waits for the
            GPU; False runs them without CUDA graphs, so that nothing is recorded any more.

        Raises ValueError where the tokens have no room for two more in every prompt and two for every label.
        """
        for size in product(tokens, labels, prompts):
            batch = self._random_batch(*size)
            for _ in range(2):  # the first run compiles, the second is recorded
                self.score(batch).wait()
        if self.graphs is not None:
            self.graphs.record_others = record_others

    def _random_batch(self, tokens: int, labels: int, prompts: int) -> list[EncodedPrompt]:
        count = max(prompts, -(-tokens // max(length for length, _ in PROBE_SIZES)))
        totals = (tokens, max(labels, count))
        shares = [[total // count + (index < total % count) for index in range(count)] for total in totals]
        sizes = list(zip(*shares, strict=True))
        if any(length < 2 + 2 * own for length, own in sizes):
            raise ValueError(f"{tokens} tokens have no room for {labels} labels in {count} prompts")
        return self._probe(sizes)

    def label_vectors(self, prompts: Sequence[EncodedPrompt], batch_tokens: int) -> Tensor:
        """Of a bi-encoder: vectors of labels that are sequences of their own, [labels, C], in order."""

        def run(group: list[int]) -> Tensor:
            batch = self.pack([prompts[index] for index in group]).to(self.device)
            vectors: Tensor = self.network.label_vectors(batch)
            return vectors

        with self.inference():
            costs = [prompt.tokens for prompt in prompts]
            groups, vectors = zip(*run_batches(costs, batch_tokens, run, self.free_graphs), strict=True)
            return torch.cat(vectors)[np.argsort(np.concatenate(groups))]

    def free_graphs(self) -> None:
        """Gives back the memory of CUDA graphs, which are recorded anew when next wanted."""
        if self.graphs is not None:
            self.graphs.free()

    def empty_text_vector(self) -> Tensor:
        """Of a uni-encoder: what a slot without a token becomes after projection, [1, C]."""
        with self.inference():
            vector: Tensor = self.network.empty_text_vector()
            return vector

    def to(
        self,
        *targets: torch.device | str | torch.dtype,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> GLiClassModel:
        """Moves to a device, a dtype or both, by building anew from the stock weights; returns self."""
        for target in targets:
            if isinstance(target, torch.dtype):
                dtype = target
            else:
                device = target
        wanted = self.device if device is None else _with_index(torch.device(device))
        if wanted != self.device or (dtype is not None and dtype != self.dtype):
            self._dtype = self._dtype if dtype is None else dtype
            self._build(wanted)
        return self

    def eval(self) -> GLiClassModel:
        """Does nothing: the engine only infers."""
        return self

    def float(self) -> GLiClassModel:
        return self.to(torch.float32)

    def half(self) -> GLiClassModel:
        return self.to(torch.float16)

    def bfloat16(self) -> GLiClassModel:
        return self.to(torch.bfloat16)

    def cpu(self) -> GLiClassModel:
        return self.to("cpu")

    def cuda(self) -> GLiClassModel:
        return self.to("cuda")


def read_config(raw: Mapping[str, Any]) -> ModelConfig | GliznetConfig:
    """The configuration of a checkpoint of either kind, from its parsed config.json."""
    return (GliznetConfig if raw.get("model_type") == "gliznet" else ModelConfig).from_hf(raw)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work on the host that leaves no pool of threads behind: a process forked later would wait for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def head_width(backbone: Any) -> int:
    """Of the attention heads of a backbone, given its configuration."""
    given: int | None = getattr(backbone, "head_width", None)
    return given or backbone.hidden_size // backbone.num_attention_heads


def _with_index(device: torch.device) -> torch.device:
    """`cuda` is the current GPU, so that `cuda` and `cuda:0` compare equal; ValueError without a GPU."""
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r}: this torch sees no GPU; give device='cpu'")
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device
