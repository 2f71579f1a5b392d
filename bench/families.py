"""Every kind of checkpoint beside the reference: `--preset families` runs stock shapes with random weights.

The reference is the `gliclass` package. GliZNet has none, so `gliznet_reference.py` takes its place.
For decoders, which the package runs through llm2vec, transformers without the causal mask takes it. Both
take strings and give logits; the reference gets the texts in batches of 8, as its pipeline does by default.
The error compares texts with the reference's at batch size 1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.models.auto import CONFIG_MAPPING

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.bench import cases
from gliclass_fast.bench.gliznet_reference import GliZNet
from gliclass_fast.bench.selfcheck import logit_error
from gliclass_fast.bench.timing import alternate
from gliclass_fast.text.gliznet_tokenizer import GliZNETTokenizer

VOCABULARY = 30528
_TOKENS: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0}
_BASE = cases.size_of(12, 768, 12, 3072) | _TOKENS
_SMALL = cases.size_of(12, 384, 12, 1536) | _TOKENS
_DEBERTA = cases.DEBERTA | _BASE
_T5 = _TOKENS | {
    "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12, "num_decoder_layers": 12,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_XL = _T5 | {"d_model": 2048, "d_ff": 5120, "num_heads": 32, "num_layers": 4}
_BART = _TOKENS | {
    "d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
    "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_DEBERTA_1 = _BASE | {
    "relative_attention": True, "pos_att_type": "c2p|p2c", "type_vocab_size": 0,
    "position_biased_input": False, "max_relative_positions": -1, "layer_norm_eps": 1e-7,
}  # fmt: skip
_DISTILBERT = {"vocab_size": VOCABULARY, "dim": 768, "n_heads": 12, "n_layers": 6, "hidden_dim": 3072}
_QWEN2 = cases.size_of(6, 896, 14, 4864) | {
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6
}  # fmt: skip
_LLAMA = cases.size_of(4, 2048, 16, 5504) | {"vocab_size": VOCABULARY}


@dataclass(frozen=True, slots=True)
class Family:
    """`about` tells what differs from the stock shape; the lengths of texts are in words."""

    shape: str
    backbone: tuple[str, dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    label_tower: tuple[str, dict[str, Any]] | None = None
    texts: int = 8
    labels: int = 10
    about: str = ""
    gliznet: bool = False


_UNI = {"prompt_first": True, "scorer_type": "mlp"}
_BI = {"architecture_type": "bi-encoder"}
_FUSED = {"architecture_type": "bi-encoder-fused", "prompt_first": True}
_MANY: dict[str, Any] = {"texts": 64, "labels": 256}
FAMILIES: dict[str, Family] = {
    "GliZNet": Family("DeBERTa-v3-base", ("deberta-v2", _DEBERTA), gliznet=True),
    "bi-encoder": Family(
        "DeBERTa-v3-base, labels BGE-small", ("deberta-v2", _DEBERTA), _BI, ("bert", _SMALL), **_MANY
    ),
    "bi-encoder, twin towers": Family("BERT-base twice", ("bert", _BASE), _BI, ("bert", _BASE), **_MANY),
    "bi-encoder-fused": Family("BERT-base, labels BGE-small", ("bert", _BASE), _FUSED, ("bert", _SMALL)),
    "encoder-decoder": Family("T5-v1.1-base", ("t5", _T5), {"architecture_type": "encoder-decoder"}),
    "encoder-decoder-cls": Family("BART-base", ("bart", _BART), {"architecture_type": "encoder-decoder-cls"}),
    "uni-encoder, umT5": Family("umT5-XL", ("umt5", _XL), cases.CROSS, about="4 of 24 layers"),
    "uni-encoder, DistilBERT": Family("distilbert-base", ("distilbert", _DISTILBERT), _UNI),
    "uni-encoder, ELECTRA": Family("electra-base", ("electra", _BASE | {"embedding_size": 768}), _UNI),
    "uni-encoder, DeBERTa v1": Family("deberta-base", ("deberta", _DEBERTA_1), _UNI),
    "uni-encoder, Qwen2": Family("Qwen2-0.5B", ("qwen2", _QWEN2), _UNI, about="6 of 24 layers"),
    "uni-encoder, Llama": Family("Llama-1.3B", ("llama", _LLAMA), _UNI, about="4 of 24 layers"),
}
Score = Callable[[list[str], list[str]], list[np.ndarray]]


class Bidirectional(torch.nn.Module):
    """The module runs a decoder without its causal mask, under an encoder's interface."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers import AutoModel

        self.inner, self.config = AutoModel.from_config(config), config

    def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        lowest = torch.finfo(torch.float32).min
        mask = (1.0 - attention_mask[:, None, None].float()) * lowest
        return self.inner(
            input_ids, attention_mask=mask.expand(-1, -1, input_ids.shape[1], -1), use_cache=False
        )


def reference(family: Family, folder: str) -> tuple[Any, dict[str, Any], Callable[[], Any]]:
    """Returns the reference's model, and the config.json and the tensors of the checkpoint it would be."""
    import gliclass

    torch.manual_seed(0)
    model_type, values = family.backbone
    tokenizer = cases.demo_tokenizer()
    options = dict(family.options)
    if family.label_tower is not None:
        label_type, label_values = family.label_tower
        options["label_model_config"] = CONFIG_MAPPING[label_type](**label_values).to_dict()
        options["label_model_name"] = folder
    ids = tokenizer.convert_tokens_to_ids(list(cases.MARKERS))
    names = ("class_token_index", "text_token_index", "example_token_index")
    decoder_only = model_type in ("llama", "qwen2")
    encoder = (
        CONFIG_MAPPING["bert"](**_tiny(values)) if decoder_only else CONFIG_MAPPING[model_type](**values)
    )
    config = gliclass.GLiClassModelConfig(
        encoder_config=encoder, encoder_model="stock", **dict(zip(names, ids, strict=True)), **options
    )
    model: Any = gliclass.GLiClassModel(config)
    raw = config.to_dict()
    if decoder_only:
        backbone = CONFIG_MAPPING[model_type](**values)
        model.model.encoder_model, raw["encoder_config"] = Bidirectional(backbone), backbone.to_dict()
    cases.enlarge_heads(model)
    if family.label_tower is not None:  # A product of so many projections is in the hundreds.
        model.model.logit_scale.data.fill_(0.02)

    def tensors() -> dict[str, Any]:
        return {
            name.replace(".encoder_model.inner.", ".encoder_model."): t
            for name, t in model.state_dict().items()
        }

    return model.eval(), raw, tensors


def _tiny(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of a small BERT that stands where a decoder goes; the head reads its width."""
    width = values["hidden_size"]
    return cases.size_of(1, width, values["num_attention_heads"], 8) | _TOKENS


def contenders(family: Family, folder: str) -> tuple[Score, Score]:
    """Returns (reference, engine)."""
    import gliclass

    if family.gliznet:
        return _gliznet(family)
    model, raw, tensors = reference(family, folder)
    tokenizer = cases.demo_tokenizer()
    pipeline: Any = gliclass.ZeroShotClassificationPipeline(
        model, tokenizer, device="cpu", progress_bar=False
    )
    ours = GLiClassModel(raw, tensors, "random weights", device="cpu")
    fast = ZeroShotClassificationPipeline(ours, tokenizer, device="cpu", progress_bar=False)
    return (
        lambda texts, labels: [each["logits"] for each in pipeline.get_embeddings(texts, labels)],
        lambda texts, labels: [each["logits"] for each in fast.get_embeddings(texts, labels)],
    )


def _gliznet(family: Family) -> tuple[Score, Score]:
    torch.manual_seed(0)
    model_type, values = family.backbone
    tokenizer = GliZNETTokenizer(cases.demo_tokenizer())
    model = GliZNet(CONFIG_MAPPING[model_type](**values), tokenizer.lab_token_id).eval()
    torch.nn.init.normal_(model.aggregator.scoring.bilinear.weight)  # This brings logits to order one.
    ours = GLiClassModel(model.config_json(), model.state_dict, "random weights", device="cpu")
    fast = ZeroShotClassificationPipeline(ours, tokenizer, device="cpu", progress_bar=False)

    @torch.inference_mode()
    def score(texts: list[str], labels: list[str]) -> list[np.ndarray]:
        return [row.numpy() for row in model(**tokenizer([(text, labels) for text in texts]))]

    return score, lambda texts, labels: [each["logits"] for each in fast.get_embeddings(texts, labels)]


def measure(names: list[str], repeats: int, step: Callable[[str], None] = print) -> Iterator[dict[str, Any]]:
    """Yields a row per family: shape, milliseconds of both, error."""
    with tempfile.TemporaryDirectory() as folder:
        cases.demo_tokenizer().save_pretrained(folder)
        for name in names:
            step(name)
            family = FAMILIES[name]
            found = _compare(family, *contenders(family, folder), repeats)
            yield {
                "family": name, "shape": family.shape, "about": family.about, "texts": family.texts,
                "labels": family.labels, **found,
            }  # fmt: skip


def _compare(family: Family, theirs: Score, ours: Score, repeats: int) -> dict[str, Any]:
    known = cases.words(cases.demo_tokenizer())
    lengths = [cases.RAGGED[index % len(cases.RAGGED)] for index in range(family.texts)]
    texts = [" ".join(known[index : index + length]) for index, length in enumerate(lengths)]
    labels = known[200 : 200 + family.labels]
    few, some = texts[:3], labels[:10]
    # For encoder-decoders, the reference's logits go on to max_num_classes.
    expected = [theirs([text], some)[0][: len(some)] for text in few]
    error = logit_error(ours(few, some), expected)
    slow = family.texts > 8  # A reference that takes minutes is timed once, and the engine with it.
    times = alternate(
        {"gliclass": lambda: theirs(texts, labels), "gliclass-fast": lambda: ours(texts, labels)},
        repeats=1 if slow else repeats,
        warmup=0 if slow else 1,
    )
    return {"error": error, "times": {name: asdict(each) for name, each in times.items()}}
