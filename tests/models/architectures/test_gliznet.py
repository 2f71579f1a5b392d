"""The written reference of GliZNet is right in small cases by hand, and the engine gives its logits."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gliclass_fast import CheckpointError, GLiClassModel, UnsupportedConfigError, demo
from gliclass_fast.bench.gliznet_reference import GliZNet, Options
from gliclass_fast.cli.app import app
from gliclass_fast.gliznet import (
    GliZNetForSequenceClassification,
    ZeroShotClassificationPipeline,
)
from gliclass_fast.models.configuration import read_config
from gliclass_fast.text.prompts import Request
from tests.accuracy import LOGIT_TOLERANCE, assert_same_logits, assert_unchanged, sigmoid
from tests.parity import assert_parity, reference_logits
from tests.sentences import LABELS as STOCK_LABELS
from tests.sentences import SHORT_LABELS, SHORT_TEXTS, TEXTS
from tests.tiny import backbone_config, fast_pipeline, gliznet_tokenizer, loaded, tiny_gliznet, tokenizer_of

# one variant takes the mean of a label's tokens, so all have some
LABELS = [[label or "empty" for label in own] for own in STOCK_LABELS]
VARIANTS = {
    "0 cosine": Options("0", "cosine", lab_tokens=False),
    "0 dot projected": Options("0", "dot", projected=24, norms=True, lab_tokens=False),
    "0 bilinear of [LAB]": Options("0", "bilinear"),
    "A": Options("A", "cosine", projected=40, norms=True, lab_tokens=False),
    "A without norms, of [LAB]": Options("A", "cosine", projected=24),
    "A bilinear, not projected": Options("A", "bilinear", lab_tokens=False),
    "B": Options("B"),
    "C": Options("C"),
    "C cosine": Options("C", "cosine"),
    "D": Options("D"),
    "D plain": Options("D", enrich_labels=False),
    "D cosine": Options("D", "cosine"),
}


class Identity(nn.Module):
    """This backbone gives hidden states that it is given."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return type("Output", (), {"last_hidden_state": self.states})


def by_hand(options: Options, **tensors: list[Any]) -> Tensor:
    """Gives the logits of [CLS] a [SEP] b [LAB] c [LAB] with states of two values, as below."""
    states = torch.tensor([[[1.0, 0], [0, 1], [1, 1], [2, 0], [0, 2], [1, 0], [3, 4]]])
    model = GliZNet(backbone_config("bert", {"hidden_size": 2, "num_attention_heads": 1}), 9, options)
    model.backbone = Identity(states)
    with torch.no_grad():
        for parameter in model.aggregator.parameters():
            parameter.zero_()
        for name, values in tensors.items():
            model.aggregator.get_parameter(name.replace("__", ".")).copy_(torch.tensor(values))
        ids = torch.tensor([[1, 4, 2, 5, 9, 6, 9]])
        lmask = torch.tensor([[0, 0, 0, 1, 0, 2, 0]])
        return model(ids, torch.ones_like(ids), lmask)[0]


def softmax(*scores: float) -> list[float]:
    total = sum(map(math.exp, scores))
    return [math.exp(score) / total for score in scores]


def test_0_by_hand() -> None:
    # [CLS] = (1, 0); labels are their tokens (2, 0) and (1, 0), or their [LAB]s (0, 2) and (3, 4)
    means = Options("0", "cosine", lab_tokens=False)
    assert by_hand(means, similarity_head__logit_scale=0.5).tolist() == pytest.approx([math.exp(0.5)] * 2)
    lab = by_hand(Options("0", "dot"), similarity_head__classifier__weight=[[2.0, 1.0]],
                  similarity_head__classifier__bias=[0.25])  # fmt: skip
    assert lab.tolist() == pytest.approx([0.25, 6.25])


def test_a_by_hand() -> None:
    # texts (1, 0), (0, 1), (1, 1) and, as labels are means, the [LAB]s (0, 2), (3, 4)
    means = Options("A", "dot", lab_tokens=False)
    ones = {"similarity_head__classifier__weight": [[1.0, 1.0]]}
    found = by_hand(means, attention_temperature=-2.0, **ones)
    shares = softmax(1, 0, 1, 0, 3)  # (2, 0) . text / 2
    x = shares[0] + shares[2] + 3 * shares[4]
    assert found[0].item() == pytest.approx(2 * x, rel=1e-6)
    floor = by_hand(Options("A", "dot"), attention_temperature=0.01, **ones)  # at least 0.1
    shares = softmax(0, 20, 20)  # (0, 2) . text / 0.1
    assert floor[0].item() == pytest.approx(2 * (shares[1] + shares[2]), rel=1e-6)


def test_b_and_c_by_hand() -> None:
    weight = [[[0.0, 1.0], [0.0, 0.0]]]  # text_0 * label_1
    shares = softmax(0, 2 / 2**0.5, 2 / 2**0.5)  # [LAB] (0, 2), over the width's root
    wanted = 2 * (shares[0] + shares[2])
    assert by_hand(Options("B"), bilinear__weight=weight)[0].item() == pytest.approx(wanted, rel=1e-6)
    assert by_hand(Options("C"), scoring__bilinear__weight=weight)[0].item() == pytest.approx(wanted)
    cosine = by_hand(Options("C", "cosine"), scoring__logit_scale=9.0)[0].item()  # at most 100
    x, y = shares[0] + shares[2], shares[1] + shares[2]
    assert cosine == pytest.approx(100 * y / math.hypot(x, y), rel=1e-5)


def test_d_by_hand() -> None:
    weight = [[[0.0, 1.0], [0.0, 0.0]]]
    plain = Options("D", enrich_labels=False)
    found = by_hand(plain, scoring__bilinear__weight=weight, attn_temperature=math.log(3.0))
    root = 0.5**0.5  # all states have length 1: (1, 0), (0, 1), (root, root), [LAB] (0, 1)
    shares = softmax(0, 3, 3 * root)
    assert found[0].item() == pytest.approx(shares[0] + root * shares[2], rel=1e-6)


def test_context_by_hand() -> None:
    """With one label, attention over itself gives the map of its fused vector."""
    context = GliZNet(backbone_config("bert", {"hidden_size": 8}), 9, Options("D")).aggregator.label_context
    label, text = torch.randn(1, 1, 8), torch.randn(1, 1, 8)
    fused = context.fuse.weight @ torch.cat((label, text), -1)[0, 0] + context.fuse.bias
    value = context.attn.in_proj_weight[16:] @ fused + context.attn.in_proj_bias[16:]
    added = label[0, 0] + context.attn.out_proj.weight @ value + context.attn.out_proj.bias
    found = context(label, text, torch.zeros(1, 1, dtype=torch.bool))[0, 0]
    assert torch.allclose(found, added / added.norm(), atol=1e-6)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_engine_matches_the_reference(options: Options) -> None:
    pipeline = assert_parity(tiny_gliznet(options), TEXTS, LABELS)
    requests = [Request(text, tuple(own)) for text, own in zip(TEXTS, LABELS, strict=True)]
    embedded = pipeline.get_embeddings(TEXTS, LABELS)
    for scored, each in zip(pipeline.engine.score(requests), embedded, strict=True):
        assert_unchanged(scored.logits[0], each["logits"])


@pytest.mark.parametrize("backbone", ["deberta-v2", "modernbert"])
@pytest.mark.parametrize("name", ["A", "D"])
def test_backbones(backbone: str, name: str) -> None:
    pipeline = assert_parity(tiny_gliznet(VARIANTS[name], backbone), TEXTS, LABELS)
    for found in pipeline.get_embeddings(TEXTS, LABELS):
        assert found["text_embedding"].shape == found["class_embeddings"].shape


def test_the_written_reference_does_not_depend_on_padding() -> None:
    model = tiny_gliznet(VARIANTS["D"])
    with torch.no_grad():
        together = model(**tokenizer_of(model)(list(zip(TEXTS, LABELS, strict=True))))
    for found, alone in zip(together, reference_logits(model, TEXTS, LABELS), strict=True):
        assert_same_logits(found.numpy(), alone)


@pytest.mark.parametrize("name", ["0 dot projected", "A", "C", "D"])
def test_triton(name: str) -> None:
    ours = assert_parity(tiny_gliznet(VARIANTS[name]), SHORT_TEXTS, SHORT_LABELS, backend="triton").model
    assert ours.loaded.network.score_recordable == (ours.ops.chosen["attention_pool"] == "triton")


def test_authors_results() -> None:
    model = tiny_gliznet(VARIANTS["D"])
    pipeline = ZeroShotClassificationPipeline(loaded(model), gliznet_tokenizer())
    wanted = dict(zip(LABELS[0], sigmoid(reference_logits(model, TEXTS[:1], LABELS[:1])[0]), strict=True))
    one = pipeline(TEXTS[0], LABELS[0])
    assert one.text == TEXTS[0]
    scores = [pair.score for pair in one.labels]
    assert scores == sorted(scores, reverse=True)
    for pair in one.labels:
        assert abs(pair.score - wanted[pair.label]) <= LOGIT_TOLERANCE
    classes = pipeline([TEXTS[0]], [LABELS[0]], classification_type="multi-class")[0].labels
    assert sum(pair.score for pair in classes) == pytest.approx(1)
    middle = scores[len(scores) // 2]
    assert [p.score for p in pipeline(TEXTS[0], LABELS[0], threshold=middle).labels] == scores[
        : len(scores) // 2 + 1
    ]
    assert pickle.loads(pickle.dumps(pipeline))(TEXTS[0], LABELS[0]) == one
    shared = pipeline(TEXTS[:2], LABELS[0])
    assert [len(each.labels) for each in shared] == [len(LABELS[0])] * 2
    with pytest.raises(ValueError, match="multi-class"):
        pipeline(TEXTS[0], LABELS[0], classification_type="single")


def test_folder_and_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_gliznet(VARIANTS["D"])
    save_file(model.state_dict() | {"loss_fn.bce_scale": torch.ones(())}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(model.config_json()))
    gliznet_tokenizer(min_text_tokens=7).save_pretrained(tmp_path)
    pipeline = ZeroShotClassificationPipeline.from_pretrained(tmp_path, device="cpu")
    assert pipeline.tokenizer.min_text_tokens == 7 and pipeline.tokenizer.min_label_tokens == 2
    assert pipeline(TEXTS[0], LABELS[0]).labels
    with pytest.raises(SystemExit) as done:
        app(
            [
                "classify",
                "so good",
                "--labels",
                "a,b",
                "--model",
                str(tmp_path),
                "--device",
                "cpu",
                "--threshold",
                "0",
            ]
        )
    assert done.value.code in (None, 0)
    assert '"label"' in capsys.readouterr().out
    ours, _ = GliZNetForSequenceClassification.from_pretrained_with_tokenizer(tmp_path, device="cpu")
    assert isinstance(ours, GLiClassModel)


def test_unknown_tensors_and_other_checkpoints(tmp_path: Path) -> None:
    model = tiny_gliznet(VARIANTS["B"])
    tensors = model.state_dict()
    form = tensors.pop("aggregator.bilinear.weight")
    with pytest.raises(CheckpointError, match="no known variant of GliZNet"):
        GLiClassModel(model.config_json(), lambda: tensors, "x", device="cpu")
    left = model.state_dict() | {"aggregator.more.weight": form}
    with pytest.raises(CheckpointError, match=r"aggregator\.more\.weight"):
        GLiClassModel(model.config_json(), lambda: left, "x", device="cpu")
    with pytest.raises(UnsupportedConfigError, match="lab_token_id"):
        read_config(model.config_json() | {"lab_token_id": None})
    with pytest.raises(UnsupportedConfigError, match="not one of GliZNet"):
        GliZNetForSequenceClassification.from_pretrained(demo.PATH, device="cpu")


@pytest.mark.parametrize("window", [60, 48, 40, 34])
def test_labels_become_shorter_before_texts(window: int) -> None:
    tokens = gliznet_tokenizer(min_text_tokens=10, min_label_tokens=2)
    labels = ("a" * 30, "b" * 6, "c")  # 37 tokens, and 3 [LAB]s
    found = tokens.encode(["t" * 20], [labels], window)[0]
    kept = [int(end - start - 1) for start, end in found.label_spans]
    text = found.text_end - 2
    assert len(found.token_ids) <= window
    spare = window - 2 - 20 - 3 - 6
    if spare >= 0:
        assert text == 20 and kept == [min(n, 2 + int(spare * n / 37)) for n in (30, 6, 1)]
    else:
        assert text == window - 2 - 3 - 6 and kept == [2, 2, 1]


def test_settings_that_are_changed_count_from_the_next_call() -> None:
    tokens = gliznet_tokenizer()
    lengths = []
    for most in (64, 3, 5):
        tokens.max_tokens_per_span = most
        lengths.append(
            [int(end - start - 1) for start, end in tokens.encode(["t"], [("abcdef",)])[0].label_spans]
        )
    assert lengths == [[6], [3], [5]]


def test_a_loaded_tokenizer_takes_no_options_of_loading() -> None:
    with pytest.raises(TypeError, match="model_max_length: options of loading do nothing"):
        gliznet_tokenizer(model_max_length=16)


MANY = (
    r"^40 label\(s\) do not fit the window of 64 tokens: with at most \d+ tokens each and \d+ of text they "
    r"need \d+. Give fewer, or let a call score them in several passes \(labels_per_pass='auto'; in the "
    r"chunking pipeline a smaller labels_chunk_size\), or raise max_length where the model allows it$"
)


def test_labels_that_do_not_fit_raise_or_take_several_passes() -> None:
    model = tiny_gliznet(VARIANTS["D"])
    pipeline = ZeroShotClassificationPipeline(loaded(model), gliznet_tokenizer())
    pipeline.engine.window = 64
    many = [f"label {number}" for number in range(40)]
    with pytest.raises(ValueError, match=MANY):
        pipeline("a text", many)
    found = pipeline("a text", many, labels_per_pass="auto")
    assert {pair.label for pair in found.labels} == set(many)


def test_config_and_tokenizer_have_to_agree_with_the_tensors() -> None:
    model = tiny_gliznet(VARIANTS["D"])
    for option, value in (("scoring_method", "cosine"), ("enrich_labels", False)):
        config = model.config_json() | {option: value}
        with pytest.raises(UnsupportedConfigError, match=option):
            GLiClassModel(config, model.state_dict, "x", device="cpu")
    with pytest.raises(UnsupportedConfigError, match="lab_token_id=1000000"):
        read_config(model.config_json() | {"lab_token_id": 1_000_000})
    other = GLiClassModel(model.config_json() | {"lab_token_id": 5}, model.state_dict, "x", device="cpu")
    with pytest.raises(ValueError, match="lab_token_id=5"):
        ZeroShotClassificationPipeline(other, gliznet_tokenizer())


def test_a_label_without_tokens_has_no_mean() -> None:
    pipeline = ZeroShotClassificationPipeline(loaded(tiny_gliznet(VARIANTS["A"])), gliznet_tokenizer())
    with pytest.raises(ValueError, match="a label has no tokens"):
        pipeline("a text", ["a", ""])


def test_a_marker_in_a_text_is_text() -> None:
    found = gliznet_tokenizer().encode(["so [LAB] good"], [("a", "b")])[0]
    assert (found.token_ids == gliznet_tokenizer().lab_token_id).sum() == 2
    with pytest.raises(ValueError, match="GliZNet takes a text and labels alone"):
        fast_pipeline(tiny_gliznet(VARIANTS["D"]), gliznet_tokenizer())("a", ["b"], prompt="Do it:")


def test_padded_input_of_the_authors_shape() -> None:
    batch = gliznet_tokenizer()([("ab", ["c", "de"]), ("a", ["b"])])
    assert batch["lmask"].tolist() == [[0, 0, 0, 0, 1, 0, 2, 2, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [9, 5]
    alone = gliznet_tokenizer().tokenize("ab", ["c", "de"])
    assert alone["input_ids"].tolist() == batch["input_ids"][0].tolist()
