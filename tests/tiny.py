"""This module builds tiny random models of the reference, and tokenizers that can encode any text."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from typing import Any

import gliclass
import numpy as np
import torch
from gliclass.model import GLiClassOutput
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.auto import CONFIG_MAPPING
from transformers.models.umt5.modeling_umt5 import UMT5Attention

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.batch import EncodedPrompt, consecutive_spans
from gliclass_fast.bench.gliznet_reference import GliZNet, Options
from gliclass_fast.text.gliznet_tokenizer import GliZNETTokenizer

# transformers 5.24 renames an argument of every output, and that of the reference has no such field: its
# decoder-kv models then fail. The reference shall be what it is with other versions.
GLiClassOutput.__init__ = getattr(GLiClassOutput.__init__, "__wrapped__", GLiClassOutput.__init__)

MARKERS = ["<<LABEL>>", "<<SEP>>", "<<EXAMPLE>>"]
SPECIALS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
VOCABULARY = 256 + len(SPECIALS) + len(MARKERS)
WIDTH, HEADS, INNER = 32, 2, 48

ENCODERS: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "num_hidden_layers": 2, "max_position_embeddings": 64, "type_vocab_size": 0,
        "relative_attention": True, "position_buckets": 16, "max_relative_positions": -1,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
    "modernbert": {"num_hidden_layers": 4, "local_attention": 16, "max_position_embeddings": 2048},
    "bert": {"num_hidden_layers": 2, "max_position_embeddings": 2048},
    "roberta": {"num_hidden_layers": 2, "max_position_embeddings": 2050, "type_vocab_size": 1},
    "t5": {
        "d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": INNER, "num_heads": HEADS, "num_layers": 2,
        "feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 40,
    },
    "xlm-roberta": {"num_hidden_layers": 2, "max_position_embeddings": 2050, "type_vocab_size": 1},
}  # fmt: skip
# made of the layers of those above: tests of what runs a backbone need not repeat them
MORE_ENCODERS: dict[str, dict[str, Any]] = {
    "distilbert": {"num_hidden_layers": 2, "max_position_embeddings": 2048, "hidden_dim": INNER},
    "electra": {"num_hidden_layers": 2, "max_position_embeddings": 2048, "embedding_size": WIDTH},
    "deberta": {
        "num_hidden_layers": 2, "max_position_embeddings": 64, "type_vocab_size": 0,
        "relative_attention": True, "max_relative_positions": -1, "pos_att_type": "c2p|p2c",
        "position_biased_input": False,
    },
}  # fmt: skip
BART: dict[str, Any] = {
    "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS, "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER,
    "max_position_embeddings": 1024, "scale_embedding": True, "eos_token_id": 2, "bos_token_id": 1,
}  # fmt: skip
QWEN3: dict[str, Any] = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 2048,
}  # fmt: skip
_OF_SUMS = ("model.text_projector.linear_1.weight", "model.biencoder_projector.linear_1.weight")
ALL_SCORERS = ("simple", "weighted-dot", "mlp", "hopfield", "cross-attn")
SHOT = {"prompt": "Task: ", "examples": [{"text": "so good", "labels": ["x", "y"]}]}
VECTOR_POOLINGS = ("first", "last", "avg", "sum", "max", "rms", "abs_max", "abs_avg")


def new_byte_tokenizer(with_example: bool = True, lab: bool = False) -> PreTrainedTokenizerFast:
    """Makes one token per UTF-8 byte, so that every string has ids, with BERT's template.

    lab: whether GliZNet's token is there too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    tokenizer.add_tokens(MARKERS if with_example else MARKERS[:2], special_tokens=True)
    if lab:
        tokenizer.add_tokens(["[LAB]"], special_tokens=True)
    return tokenizer


byte_tokenizer = lru_cache(new_byte_tokenizer)


def random_prompt(tokens: int, labels: int, seed: int = 0) -> EncodedPrompt:
    """Makes a prompt of labels of one token each, then a text, all of random tokens."""
    ids = np.random.default_rng(seed).integers(4, VOCABULARY - 3, tokens, dtype=np.int32)
    return EncodedPrompt(ids, text_start=labels, label_spans=consecutive_spans([1] * labels))


def backbone_config(encoder: str, changes: dict[str, Any] | None = None) -> Any:
    """Makes a tiny transformers config."""
    values = {
        "hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": INNER,
        "vocab_size": VOCABULARY, "pad_token_id": 0, **(ENCODERS | MORE_ENCODERS).get(encoder, {}),
        **(changes or {}),
    }  # fmt: skip
    return CONFIG_MAPPING[encoder](**values)


def reference_model(
    encoder: str = "deberta-v2", backbone: dict[str, Any] | None = None, **options: Any
) -> Any:
    """Builds a `gliclass.GLiClassModel` with weights large enough for logits of order one."""
    torch.manual_seed(0)
    config = backbone_config(encoder, backbone)
    options = {"scorer_type": "simple", "pooling_strategy": "first", "prompt_first": True, **options}
    if options["scorer_type"] == "cross-attn":
        options |= {"pooling_strategy": "pass", "scorer_num_heads": 4, "scorer_mlp_hidden_size": 24}
    ids = byte_tokenizer().convert_tokens_to_ids(MARKERS)
    names = ("class_token_index", "text_token_index", "example_token_index")
    markers = dict(zip(names, ids, strict=True)) | {"sep_token_index": ids[1]}
    model = gliclass.GLiClassModel(
        gliclass.GLiClassModelConfig(encoder_config=config, encoder_model="tiny", **{**markers, **options})
    )
    for module in model.modules():
        if isinstance(module, UMT5Attention):  # transformers 5.17 forgets it
            module.is_causal = module.is_decoder and module.has_relative_attention_bias
    enlarge(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("model.scorer.q_proj.weight", "model.scorer.k_proj.weight"):
                # hopfield: a softmax argument in the hundreds turns float32 rounding into 1e-3 of a score
                parameter.normal_(0, 0.1 * WIDTH**-0.5)
            elif name in _OF_SUMS and options["pooling_strategy"] == "sum":
                # a sum of a hundred rows, brought back to the size of one: logits of 90 lose digits
                parameter.normal_(0, 0.01 * WIDTH**-0.5)
    return model.eval()


def enlarge(model: torch.nn.Module) -> None:
    """Makes weights large enough for logits of order one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "encoder_decoder_model" in name and name.endswith("Attention.q.weight"):
                # T5's scores are not divided by a root: as small as its own initial values, or every softmax
                # takes one token and 16 bit decide which
                parameter.normal_(0, 1.2 * (parameter.shape[-1] * WIDTH // HEADS) ** -0.5)
            elif parameter.dim() > 1:
                parameter.normal_(0, 0.5 if "embed" in name else 1.2 * parameter.shape[-1] ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif parameter.dim() == 1:  # of norms, so that folding one into what follows shows
                parameter.uniform_(0.5, 1)


def tiny_gliznet(options: Options, backbone: str = "bert") -> GliZNet:
    """Builds the written reference of GliZNet."""
    torch.manual_seed(0)
    tokens = gliznet_tokenizer()
    model = GliZNet(backbone_config(backbone, {"vocab_size": len(tokens)}), tokens.lab_token_id, options)
    enlarge(model)
    return model.eval()


def gliznet_tokenizer(**settings: Any) -> GliZNETTokenizer:
    return GliZNETTokenizer(new_byte_tokenizer(lab=True), **settings)


def tokenizer_of(model: Any) -> Any:
    """Gives the tokenizer of a reference model."""
    return gliznet_tokenizer() if isinstance(model, GliZNet) else byte_tokenizer()


@lru_cache
def label_tokenizer_folder() -> str:
    """Gives a folder with the byte tokenizer, as the reference loads a label tower's by name."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def label_tower(encoder: str = "bert", changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Gives the options of a bi-encoder, whose labels a tower of their own reads."""
    tower = backbone_config(encoder, changes).to_dict()
    return {"label_model_name": label_tokenizer_folder(), "label_model_config": tower}


def reference_pipeline(model: Any, tokenizer: Any = None, **settings: Any) -> Any:
    return gliclass.ZeroShotClassificationPipeline(
        model, tokenizer or byte_tokenizer(), device="cpu", progress_bar=False, **settings
    )


def loaded(model: Any, device: str = "cpu", **options: Any) -> GLiClassModel:
    """Builds our model over the weights of a reference model."""
    if isinstance(model, GliZNet):
        return GLiClassModel(model.config_json(), model.state_dict, "a GliZNet", device=device, **options)
    return GLiClassModel.from_gliclass(model, device=device, **options)


def fast_pipeline(model: Any, tokenizer: Any = None, **settings: Any) -> ZeroShotClassificationPipeline:
    """Builds our pipeline over a model of either kind, with small batches so that several are needed."""
    ours = model if isinstance(model, GLiClassModel) else loaded(model)
    settings = {"batch_tokens": 256, "progress_bar": False, "device": ours.device, **settings}
    return ZeroShotClassificationPipeline(ours, tokenizer or byte_tokenizer(), **settings)
