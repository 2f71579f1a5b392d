"""Every quirk of the reference is pinned; the numbers are those of the project's parity notes."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import gliclass
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gliclass_fast import GLiClassModel, UnsupportedConfigError
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.configuration import read_config
from gliclass_fast.models.encoders.deberta_v2 import bucket_of, config_from
from gliclass_fast.models.scorers import SCORERS
from gliclass_fast.runtime.dtype import dtype_candidates
from gliclass_fast.runtime.packing import pack
from gliclass_fast.text.prompts import Request
from tests import families
from tests.accuracy import assert_same_logits, assert_same_results
from tests.parity import assert_parity
from tests.sentences import LABELS, TEXTS
from tests.tiny import ENCODERS, byte_tokenizer, fast_pipeline, reference_model, reference_pipeline


def config_of(model: Any, **changes: Any) -> ModelConfig:
    return read_config({**model.config.to_dict(), **changes})


@pytest.mark.parametrize("scorer", ["mlp", "hopfield"])
def test_1_hidden_size_of_mlp_and_hopfield_is_256(scorer: str) -> None:
    model = reference_model(scorer_type=scorer, scorer_mlp_hidden_size=64)
    shapes = [
        tuple(p.shape) for n, p in model.named_parameters() if "scorer.mlp" in n and n.endswith("weight")
    ]
    assert [shape[0] for shape in shapes] == [256, 128, 1]
    assert_parity(model)


def test_1_cross_attn_uses_the_configured_size() -> None:
    model = reference_model(scorer_type="cross-attn")
    assert model.model.scorer.score_mlp[0].weight.shape[0] == model.config.scorer_mlp_hidden_size == 24
    assert_parity(model)


def test_2_cross_attn_values_come_from_the_unnormed_text() -> None:
    model = reference_model(scorer_type="cross-attn")
    pipeline = fast_pipeline(model)
    before = pipeline.get_embeddings(TEXTS[0], LABELS[0])[0]["logits"]
    with torch.no_grad():
        model.model.scorer.kv_norm.weight.zero_()  # all keys alike: the context is the mean of the values
        model.model.scorer.kv_norm.bias.zero_()
    after = fast_pipeline(model).get_embeddings(TEXTS[0], LABELS[0])[0]["logits"]
    assert abs(after - before).max() > 1e-3
    assert_parity(model)


def test_3_segments_and_the_misused_argmin() -> None:
    model = reference_model(use_segment_embeddings=True, pooling_strategy="avg", scorer_type="mlp")
    assert_parity(model)
    assert_parity(model, examples=[{"text": "good", "labels": ["a"]}])
    pipeline = fast_pipeline(model)
    shots = [{"text": "good", "labels": ["a"]}]
    requests = [Request("x", ("a",)), Request("x", ("a",), examples=shots)]
    batch = pack(pipeline.engine.reader.encode(requests, 512))
    first, second = batch.segments.split(batch.cu_seqlens.diff().tolist())
    assert first.tolist() == [0, 0, 0, 1, 1, 1]  # [CLS] <<LABEL>> a | <<SEP>> x [SEP]
    assert second.unique().tolist() == [2]


def test_4_a_left_over_label_model_changes_nothing() -> None:
    model = reference_model(scorer_type="mlp")
    config = config_of(model, label_model_name="some/label-model")
    assert config == config_of(model)


@pytest.mark.parametrize("embed", [True, False])
@pytest.mark.parametrize("extract", [True, False])
@pytest.mark.parametrize("prompt_first", [True, False])
def test_5_label_spans(embed: bool, extract: bool, prompt_first: bool) -> None:
    assert_parity(
        reference_model(
            scorer_type="mlp",
            embed_class_token=embed,
            extract_text_features=extract,
            prompt_first=prompt_first,
            class_token_pooling="average",
        )
    )


@pytest.mark.parametrize("pooling", ["avg", "max", "last", "first", "rms"])
def test_6_extracted_text_is_pooled_over_the_slots_of_the_whole_prompt(pooling: str) -> None:
    model = reference_model(pooling_strategy=pooling, extract_text_features=True, scorer_type="mlp")
    assert_parity(model)
    assert_parity(model, prompt="Task:", examples=[{"text": "good", "labels": ["a"]}])
    if pooling == "last":  # the last slot is never filled: the text vector is the projection of zeros
        pipeline = fast_pipeline(model)
        first, second = pipeline.get_embeddings(["one text", "quite another"], ["a"])
        assert np.array_equal(first["text_embedding"], second["text_embedding"])


def test_7_logit_scale_only_with_normalisation() -> None:
    for normalize in (False, True):
        model = reference_model(normalize_features=normalize)
        with torch.no_grad():
            model.model.logit_scale.fill_(5.0)
        assert_parity(model)


def test_8_cross_attn_needs_all_rows_and_the_others_one_vector() -> None:
    for scorer, pooling in (("cross-attn", "first"), ("mlp", "pass")):
        with pytest.raises(UnsupportedConfigError, match=f"scorer_type='{scorer}'.*supported"):
            config_of(reference_model(), scorer_type=scorer, pooling_strategy=pooling)


def test_9_result_order_and_threshold() -> None:
    model = reference_model(scorer_type="mlp")
    reference, pipeline = reference_pipeline(model), fast_pipeline(model)
    for kind, threshold in itertools.product(("multi-label", "single-label"), (0.0, 0.3, 0.5, 1.0)):
        for text, labels in zip(TEXTS, LABELS, strict=True):
            arguments = {"classification_type": kind, "threshold": threshold}
            expected, found = (p(text, labels, **arguments)[0] for p in (reference, pipeline))
            assert_same_results(found, expected)


def test_10_the_window_never_cuts_a_label() -> None:
    model = reference_model(prompt_first=False, scorer_type="mlp")
    pipeline = fast_pipeline(model, max_length=40)
    text, labels = "a text much longer than the window " * 5, ["first label", "second label"]
    full = fast_pipeline(model, max_length=1024)
    kept = 40 - 2 - len("first labelsecond label") - 3  # specials, labels, their markers and <<SEP>>
    expected = full.get_embeddings(text[:kept], labels)[0]["logits"]
    assert np.array_equal(pipeline.get_embeddings(text, labels)[0]["logits"], expected)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("scorer", ["simple", "mlp", "hopfield", "weighted-dot"])
def test_11_calibrator(use_bias: bool, scorer: str) -> None:
    model = reference_model(
        scorer_type=scorer, use_calibrator=True, calibrator_use_bias=use_bias, calibrator_hidden_size=12
    )
    assert_parity(model)
    reference, pipeline = reference_pipeline(model), fast_pipeline(model)
    for kind in ("multi-label", "single-label"):
        found, expected = (
            run(TEXTS[2], LABELS[2], threshold=0.0, classification_type=kind)[0]
            for run in (pipeline, reference)
        )
        assert all("initial_score" in each for each in found)
        assert_same_results(found, expected)


def test_13_rope_and_windows_from_either_generation_of_configs() -> None:
    config = config_of(reference_model("modernbert"))
    assert config.backbone_config.windows == (None, 8, 8, None)  # a window of 16 means 8 each side
    assert config.backbone_config.thetas == (160000.0, 10000.0, 10000.0, 160000.0)
    old = {"global_rope_theta": 300.0, "local_rope_theta": 70.0, "global_attn_every_n_layers": 2}
    nested = {**reference_model("modernbert").config.encoder_config.to_dict(), **old}
    for name in ("rope_parameters", "layer_types"):
        nested.pop(name)
    config = config_of(reference_model("modernbert"), encoder_config=nested)
    assert config.backbone_config.thetas == (300.0, 70.0, 300.0, 70.0)
    assert config.backbone_config.windows == (None, 8, None, 8)
    names = [name for name, _ in reference_model("modernbert").named_parameters()]
    assert not any("layers.0.attn_norm" in name for name in names)


def test_14_distance_buckets() -> None:
    hf = reference_model("deberta-v2", {"position_buckets": 256, "max_position_embeddings": 512})
    slots = bucket_of(config_from(hf.config.encoder_config))
    bucket = dict(zip(range(-512, 513), (slots - 256).tolist(), strict=True))
    assert all(bucket[d] == d for d in range(-128, 129))  # linear up to 128
    assert bucket[511] == bucket[512] == 255  # +512 would be 256: clamped to the table
    assert bucket[-511] == -255 and bucket[-512] == -256  # the table has one more row on this side
    assert bucket[510] == 255 and bucket[129] == 129
    assert all(bucket[d] == -bucket[-d] for d in range(1, 512))
    assert all(0 <= b - a <= 1 for a, b in itertools.pairwise(slots.tolist()))


def test_16_the_stored_dtype_is_kept_on_a_gpu_if_asked_for_and_widened_on_a_cpu() -> None:
    stored, model = {"a": torch.zeros(1, dtype=torch.bfloat16)}, reference_model()
    gpu, plain, wide = torch.device("cuda"), config_of(model, dtype=None), config_of(model, dtype="float32")
    assert dtype_candidates("auto", gpu, plain, stored) == [torch.bfloat16]
    assert dtype_candidates("auto", gpu, wide, stored) == [torch.float32]  # config.json wins
    assert dtype_candidates("float16", gpu, wide, stored) == [torch.float16]


@pytest.mark.parametrize("encoder", ["deberta-v2", "modernbert", "bert"])
def test_17_encoder_layer_id(encoder: str) -> None:
    """The reference does not request hidden states, so the expected states are put in by hand.

    Labels are means of their tokens: in the embedding output all <<LABEL>> tokens may be the same.
    """
    model = reference_model(encoder, scorer_type="mlp", class_token_pooling="average")
    layers = model.config.encoder_config.num_hidden_layers
    for layer in [*range(layers + 1), -2]:
        model.config.encoder_layer_id = layer
        found = fast_pipeline(model).get_embeddings(TEXTS[2], LABELS[2])[0]["logits"]
        assert_same_logits(found, logits_of_states(model, lambda states, at=layer: states[at]))


@pytest.mark.parametrize("with_embeddings", [True, False])
def test_17_squeeze_layers(with_embeddings: bool) -> None:
    model = reference_model("deberta-v2", scorer_type="mlp", squeeze_layers=True)
    layers = model.config.encoder_config.num_hidden_layers + with_embeddings
    mixer = model.model.layer_wise_attention
    mixer.W1, mixer.W2 = nn.Linear(layers, layers // 2), nn.Linear(layers // 2, layers)

    def mixed(states: tuple[Tensor, ...]) -> Tensor:
        stacked = torch.stack(states[-layers:])  # [K, 1, S, C]
        means = mixer.squeeze(stacked)[..., 0].mean(-1)[:, 0]  # [K]
        gates = torch.sigmoid(mixer.W2(torch.relu(mixer.W1(means))))
        return mixer.output_projection((gates[:, None, None, None] * stacked).sum(0))

    found = fast_pipeline(model).get_embeddings(TEXTS, LABELS)[2]["logits"]
    assert_same_logits(found, logits_of_states(model, mixed))


@torch.no_grad()
def logits_of_states(model: Any, choose: Any) -> np.ndarray:
    """Runs the reference's heads over hidden states chosen from all of the encoder's.

    The last one is the encoder's output: transformers 5.0 lists ModernBERT's before the norm at the end.
    """
    inputs = reference_pipeline(model).pipe.prepare_inputs([TEXTS[2]], [LABELS[2]])
    out = model.model.encoder_model(
        inputs["input_ids"], inputs["attention_mask"], output_hidden_states=True, return_dict=True
    )
    states = choose((*out.hidden_states[:-1], out.last_hidden_state))
    logits, *_ = model.model.process_encoder_output(
        inputs["input_ids"], inputs["attention_mask"], states, max_num_classes=len(LABELS[2])
    )
    return logits[0].numpy()


@pytest.mark.parametrize("kind", ["uni-encoder", "encoder-decoder, BART", "encoder-decoder-cls, T5"])
@torch.no_grad()
def test_12_words_of_the_encoder_and_the_decoder_may_differ(kind: str, tmp_path: Path) -> None:
    model = reference_model("umt5", ENCODERS["t5"]) if kind == "uni-encoder" else families.reference(kind)
    for name, module in model.named_modules():
        if name.endswith("embed_tokens"):
            module.weight = torch.nn.Parameter(module.weight + torch.randn_like(module.weight))
    assert_parity(model)  # a live one: every part reads its own
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert any(name.endswith("encoder.embed_tokens.weight") for name in saved)
    reloaded = gliclass.GLiClassModel.from_pretrained(tmp_path).eval()
    assert_parity(reloaded, ours=GLiClassModel.from_pretrained(tmp_path, device="cpu"))


def test_12_with_segment_embeddings_shared_words_count() -> None:
    model = reference_model("umt5", ENCODERS["t5"], use_segment_embeddings=True)
    words = model.model.encoder_model.encoder.embed_tokens
    words.weight = torch.nn.Parameter(torch.randn_like(words.weight))
    assert_parity(model)


def test_18_hopfield_does_not_depend_on_the_batch() -> None:
    model = reference_model(scorer_type="hopfield", pooling_strategy="avg")
    assert_parity(model)


def test_19_deberta_extras_are_read() -> None:
    extras = {"conv_kernel_size": 3, "share_att_key": False, "pos_att_type": ["c2p"], "position_buckets": -1}
    config = config_of(reference_model("deberta-v2", extras)).backbone_config
    assert (config.conv_kernel_size, config.share_att_key) == (3, False)
    assert config.position_terms == ("c2p",) and config.scale == pytest.approx(1 / math.sqrt(2 * 16))
    assert config.span == 64
    assert_parity(reference_model("deberta-v2", extras, scorer_type="mlp"))


def test_18_hopfield_over_a_fixed_number_of_slots_is_refused() -> None:
    model = reference_model(scorer_type="hopfield")
    with pytest.raises(UnsupportedConfigError, match=r"max_labels_alloc='fixed'.*supported: 'dynamic'"):
        config_of(model, max_labels_alloc="fixed")
    config_of(reference_model(scorer_type="mlp"), max_labels_alloc="fixed")


@pytest.mark.parametrize(
    ("option", "value", "listed"),
    [
        ("architecture_type", "decoder", "decoder-kv"),
        ("scorer_type", "decoder-kv", "cross-attn"),
        ("pooling_strategy", "median", "abs_avg"),
        ("class_token_pooling", "max", "average"),
        ("projector_hidden_act", "mish", "gelu"),
        ("encoder_config", {"model_type": "gpt2"}, "modernbert"),
        ("encoder_layer_id", 7, "2 layers"),
        ("encoder_config", {"model_type": "bert", "hidden_size": "wide"}, "not a valid bert config"),
    ],
)
def test_unsupported_options_are_named_and_the_supported_ones_listed(
    option: str, value: Any, listed: str
) -> None:
    with pytest.raises(UnsupportedConfigError) as error:
        config_of(reference_model(), **{option: value})
    shown = value["model_type"] if isinstance(value, dict) else value
    assert isinstance(error.value, ValueError)
    assert str(shown) in str(error.value) and listed in str(error.value)


def test_every_supported_name_has_a_file() -> None:
    assert SCORERS["cross-attn"].__name__.endswith("scorers.cross_attn")
    with pytest.raises(UnsupportedConfigError, match="weighted-dot"):
        SCORERS["nope"]


def test_the_tokenizer_has_to_belong_to_the_checkpoint() -> None:
    model = reference_model(class_token_index=7)
    with pytest.raises(ValueError, match="class_token_index=7"):
        fast_pipeline(model, byte_tokenizer())
    assert isinstance(GLiClassModel.from_gliclass(model, device="cpu"), GLiClassModel)
