"""The dtype a model runs in: what the caller asks for, else float32 on a CPU and 16 bit on a GPU.

float16 rounds eight times finer than bfloat16 and is the default where it suffices; it ends at 65504. A model
that gets there on a batch of random tokens, or is of a family known to, runs in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt, consecutive_spans
from gliclass_fast.config import ModelConfig

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}
Size = tuple[int, int]  # tokens and labels of a prompt
PROBE_SIZES: tuple[Size, ...] = ((512, 8), (64, 8))


def dtype_candidates(
    asked: torch.dtype | str | None,
    device: torch.device,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
) -> list[torch.dtype]:
    """Dtypes to try in order, the last of which is taken unseen. `asked` may be "auto" or a name."""
    if asked is None or asked == "auto":
        if device.type == "cpu":
            return [torch.float32]
        if asked is None:
            return [torch.bfloat16] if _known_to_overflow(config) else [torch.float16, torch.bfloat16]
        stored = (tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        asked = config.dtype or next(stored, torch.float32)
    dtype = DTYPES.get(asked) if isinstance(asked, str) else asked
    if dtype is None or dtype not in DTYPES.values():
        raise ValueError(f"dtype {asked} is not supported; supported: {', '.join(DTYPES)}")
    return [dtype]


def _known_to_overflow(config: ModelConfig) -> bool:
    """mDeBERTa, the one DeBERTa with a multilingual vocabulary, and those that were trained in bfloat16."""
    towers = [(config.model_type, config.encoder)]
    if config.label_encoder is not None:
        towers.append((str(config.label_model_type), config.label_encoder))
    return any(
        (model_type == "deberta-v2" and encoder.vocab_size > 200_000)
        or model_type in ("t5", "mt5", "umt5", "llama", "qwen2")
        for model_type, encoder in towers
    )


def probe(config: ModelConfig, sizes: Sequence[Size] = PROBE_SIZES) -> list[EncodedPrompt]:
    """Prompts of random tokens, always the same, to see whether a dtype holds their values.

    A prompt has at most as many tokens as the model's window and as many labels as there is room for.
    """
    rng = np.random.default_rng(0)
    prompts = []
    for length, labels in sizes:
        longest = config.encoder.max_positions or length
        ids = rng.integers(0, config.encoder.vocab_size, min(length, longest), dtype=np.int32)
        # every label is its marker and one token
        spans = consecutive_spans([2] * min(labels, (len(ids) - 2) // 2), 1)
        text_start = int(spans[-1, 1])
        if config.architecture_type != "bi-encoder":  # which may have no markers
            ids[spans[:, 0]], ids[text_start] = config.class_token_index, config.text_token_index
        prompt = EncodedPrompt(ids, text_start, spans)
        prompts.append(prompt if config.decoder is None else replace(prompt, label_prompt=prompt))
    return prompts


def probe_labels(config: ModelConfig, labels: int) -> list[EncodedPrompt]:
    """So many labels of random tokens, for the label tower of a bi-encoder."""
    rng = np.random.default_rng(0)
    size = config.label_encoder.vocab_size
    return [EncodedPrompt.of_text(rng.integers(0, size, 16, dtype=np.int32), 1) for _ in range(labels)]
