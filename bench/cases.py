"""What is measured: stock model shapes get random weights, and batches hold prompts of given lengths.

The command line's help names the shapes, so that torch is imported only where a model is made.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gliclass_fast.demo import PATH

MARKERS = ("<<LABEL>>", "<<SEP>>", "<<EXAMPLE>>")
LABELS = ["sports", "politics", "music", "travel", "food", "science", "business", "weather"]
HEAD_GAIN = 1.7

DEBERTA = {
    "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1, "max_position_embeddings": 512,
    "position_biased_input": False, "type_vocab_size": 0, "layer_norm_eps": 1e-7, "vocab_size": 128004,
}  # fmt: skip


def size_of(layers: int, hidden: int, heads: int, inner: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


MLP = {"scorer_type": "mlp", "prompt_first": True}
CROSS = {
    "scorer_type": "cross-attn", "pooling_strategy": "pass", "class_token_pooling": "average",
    "extract_text_features": True, "prompt_first": True,
}  # fmt: skip
# The table maps a name to (Hugging Face model type, backbone options, GLiClass options).
SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "deberta-v3-small": ("deberta-v2", {**DEBERTA, **size_of(6, 768, 12, 3072)}, MLP),
    "deberta-v3-base": ("deberta-v2", {**DEBERTA, **size_of(12, 768, 12, 3072)}, MLP),
    "deberta-v3-large": ("deberta-v2", {**DEBERTA, **size_of(24, 1024, 16, 4096)}, MLP),
    "mdeberta-v3-base": (
        "deberta-v2",
        {**DEBERTA, **size_of(12, 768, 12, 3072), "vocab_size": 250105},
        CROSS,
    ),
    "modernbert-base": ("modernbert", {**size_of(22, 768, 12, 1152), "vocab_size": 50371}, MLP),
    "ettin-32m": (
        "modernbert",
        {**size_of(10, 384, 6, 576), "vocab_size": 50371, "local_rope_theta": 160000.0},
        {**MLP, "class_token_pooling": "average", "use_segment_embeddings": True},
    ),
    "bert-base": ("bert", {**size_of(12, 768, 12, 3072), "vocab_size": 30525}, MLP),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A case is one batch of prompts, whose lengths in tokens include labels and special tokens."""

    name: str
    lengths: tuple[int, ...]
    labels: tuple[str, ...] = tuple(LABELS)
    text_tokens: int | None = None  # In a grid, every text has this number of tokens.
    seed: int = 0  # Another one gives other texts.

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


RAGGED = (40, 50, 60, 70, 80, 90, 100, 128)
CPU_CASES = (
    Case("1x128", (128,)),
    Case("1x512", (512,)),
    Case("8 of 40-128", RAGGED),
    Case("8x256", (256,) * 8),
)
GPU_CASES = (
    Case("1x64", (64,)),
    Case("1x128", (128,)),
    Case("1x512", (512,)),
    Case("8x256", (256,) * 8),
    Case("32 of 40-128", RAGGED * 4),
    Case("64x256", (256,) * 64),
)


@lru_cache(maxsize=1)
def demo_tokenizer() -> Any:
    """Returns the demo's tokenizer: stock ones need a network, and speed does not depend on it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(PATH)


def random_model(shape: str, seed: int = 0) -> Any:
    """Returns the reference's model of a stock shape, with random weights and the demo's marker ids."""
    import gliclass  # The engine's own memory is measured in a process that does not import it.
    import torch
    from transformers.models.auto import CONFIG_MAPPING

    torch.manual_seed(seed)
    model_type, backbone, options = SHAPES[shape]
    ids = demo_tokenizer().convert_tokens_to_ids(list(MARKERS))
    names = ("class_token_index", "text_token_index", "example_token_index")
    encoder = CONFIG_MAPPING[model_type](**{"pad_token_id": 0, **backbone})
    config = gliclass.GLiClassModelConfig(
        encoder_config=encoder, encoder_model=shape, **dict(zip(names, ids, strict=True)), **options
    )
    model = gliclass.GLiClassModel(config).eval()
    enlarge_heads(model)
    return model


def enlarge_heads(model: Any) -> None:
    """Brings logits to order one, so that an error in them means something."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and ("projector" in name or "scorer" in name):
                parameter.normal_(0, HEAD_GAIN * parameter.shape[1] ** -0.5)


def load(name: str) -> tuple[Any, Any]:
    """Returns the reference's model and the tokenizer of a stock shape, or of a checkpoint in float32."""
    if name in SHAPES:
        return random_model(name), demo_tokenizer()
    import gliclass
    import torch
    from transformers import AutoTokenizer

    from gliclass_fast.checkpoint.files import resolve_folder

    folder = str(resolve_folder(name))
    model = gliclass.GLiClassModel.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@lru_cache(maxsize=4)
def words(tokenizer: Any) -> list[str]:
    """Returns words that are one token each inside a sentence."""
    # SentencePiece and byte-level BPE mark the start of a word like this.
    pieces = {piece.lstrip("\u2581\u0120") for piece in tokenizer.get_vocab()}
    known = sorted(word for word in pieces if word.isalpha() and word.isascii() and len(word) > 2)
    ids = tokenizer([f"a {word}" for word in known], add_special_tokens=False)["input_ids"]
    shortest = min(map(len, ids))
    return [word for word, each in zip(known, ids, strict=True) if len(each) == shortest]


def label_cases(
    tokenizer: Any, counts: tuple[int, ...] = (1, 32, 128), text_tokens: int = 256, batch: int = 8
) -> list[Case]:
    """Returns cases of a fixed text and ever more labels: a label is a marker and a word of one token."""
    names = random.Random(0).sample(words(tokenizer), max(counts))
    found = []
    for count in counts:
        block = "".join(f"<<LABEL>>{name}" for name in names[:count]) + "<<SEP>>"
        length = text_tokens + len(tokenizer(block)["input_ids"])
        name = f"{batch}x{text_tokens} text, {count} labels"
        found.append(Case(name, (length,) * batch, tuple(names[:count]), text_tokens))
    return found


def texts(case: Case, tokenizer: Any) -> list[str]:
    """Returns texts of known words that bring every prompt to its length exactly.

    Raises ValueError where the tokenizer does not let them.
    """
    rng = random.Random(case.seed)
    block = "".join(f"<<LABEL>>{label}" for label in case.labels) + "<<SEP>>"
    taken = len(tokenizer(block)["input_ids"])
    if min(case.lengths) <= taken:
        raise ValueError(f"{case.name}: the labels alone take {taken} tokens")
    return [_text(block, length, length - taken, tokenizer, rng) for length in case.lengths]


def _text(block: str, length: int, count: int, tokenizer: Any, rng: random.Random) -> str:
    """Takes as many words as tokens are missing, then fewer or more where some split."""
    chosen = rng.choices(words(tokenizer), k=2 * count)
    for _ in range(8):
        text = " ".join(chosen[:count])
        found = len(tokenizer(block + text)["input_ids"])
        if found == length:
            return text
        count += length - found
    raise ValueError(f"no text brings a prompt to {length} tokens with this tokenizer")
