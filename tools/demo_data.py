"""Training requests for the demo checkpoint: (text, labels, targets) triples come from labelled sets,
WordNet and a teacher.

Nothing here reads AG News: the demo checkpoint's score on it stays zero-shot.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gliclass_fast.bench.quality import spoken_name

Request = tuple[str, list[str], list[float]]

SENTIMENT_NAMES = (
    ("negative", "positive"),
    ("negative sentiment", "positive sentiment"),
    ("negative review", "positive review"),
    ("bad", "good"),
    ("unfavorable", "favorable"),
    ("criticism", "praise"),
)
BROAD_TOPICS = [
    "politics", "world politics", "government", "elections", "war and conflict", "diplomacy",
    "world affairs",
    "business", "finance", "economy", "banking", "markets", "companies", "trade", "jobs",
    "sports", "football", "olympics", "baseball", "tennis", "games",
    "science", "technology", "science and technology", "computers", "software", "internet",
    "space exploration",
    "physics", "biology", "medicine", "health", "environment", "weather", "energy",
    "entertainment", "film", "music", "television", "books", "art", "fashion", "celebrities",
    "food", "cooking", "travel", "education", "religion", "history", "law", "crime", "accidents", "family",
    "animals",
]  # fmt: skip
SUBJECTIVITY_NAMES = (("subjective", "objective"), ("opinion", "fact"), ("movie review", "plot summary"))


def read_csv(path: Path, label_column: str) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row[label_column]) for row in csv.DictReader(file)]


def read_rated(path: Path) -> list[tuple[str, int]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(line[2:].strip(), int(line[0])) for line in lines if line[2:].strip()]


class IntentSource:
    """The source shows a text's one true label of a closed set among a random subset of the others."""

    def __init__(self, rows: list[tuple[str, str]], most_labels: int) -> None:
        self.rows = rows
        self.names = sorted({label for _, label in rows})
        self.most_labels = min(most_labels, len(self.names))

    def draw(self, rng: random.Random) -> Request:
        text, truth = rng.choice(self.rows)
        others = [name for name in self.names if name != truth]
        labels = [truth, *rng.sample(others, rng.randint(1, self.most_labels - 1))]
        if rng.random() < 0.1:  # Sometimes nothing fits: scores must be able to stay low.
            labels = labels[1:]
        rng.shuffle(labels)
        raw = rng.random() < 0.2
        shown = labels if raw else [spoken_name(label) for label in labels]
        return text, shown, [float(label == truth) for label in labels]


class BinarySource:
    """The source has texts rated 0 or 1 and several names for both sides, sometimes beside other topics."""

    def __init__(
        self, rows: list[tuple[str, int]], names: tuple[tuple[str, str], ...], topics: list[str]
    ) -> None:
        self.rows, self.names, self.topics = rows, names, topics

    def draw(self, rng: random.Random) -> Request:
        text, side = rng.choice(self.rows)
        pair = self.names[0] if rng.random() < 0.5 else rng.choice(self.names)
        items = [(pair[side], 1.0), (pair[1 - side], 0.0)]
        if rng.random() < 0.15:
            items += [(topic, 0.0) for topic in rng.sample(self.topics, rng.randint(1, 3))]
        rng.shuffle(items)
        return text, [label for label, _ in items], [target for _, target in items]


@dataclass(frozen=True)
class Synset:
    words: tuple[str, ...]
    gloss: str
    topics: tuple[int, ...]
    hypernyms: tuple[int, ...]


def read_wordnet(folder: Path) -> dict[int, Synset]:
    """Returns noun synsets of WordNet 3.0 by offset; wndb(5WN) describes the format."""
    synsets = {}
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        fields, _, gloss = line.partition(" | ")
        parts = fields.split()
        word_count = int(parts[3], 16)
        words = tuple(parts[4 + 2 * k].replace("_", " ") for k in range(word_count))
        at = 4 + 2 * word_count
        pointers = [parts[at + 1 + 4 * k : at + 5 + 4 * k] for k in range(int(parts[at]))]
        synsets[int(parts[0])] = Synset(
            words,
            gloss.strip(),
            tuple(int(p[1]) for p in pointers if p[0] == ";c" and p[2] == "n"),
            tuple(int(p[1]) for p in pointers if p[0] in ("@", "@i")),
        )
    return synsets


class TopicSource:
    """Glosses of WordNet get subject fields (`;c` pointers) as labels; their hypernyms are no negatives."""

    def __init__(self, synsets: dict[int, Synset]) -> None:
        self.synsets = synsets
        self.rows = [synset for synset in synsets.values() if synset.topics]
        self.fields = sorted({topic for synset in self.rows for topic in synset.topics if topic in synsets})
        self.names = [self.synsets[field].words[0] for field in self.fields]

    def _ancestors(self, offset: int) -> set[int]:
        seen: set[int] = set()
        stack = [offset]
        while stack:
            at = stack.pop()
            if at not in seen and at in self.synsets:
                seen.add(at)
                stack.extend(self.synsets[at].hypernyms)
        return seen

    def draw(self, rng: random.Random) -> Request:
        synset = rng.choice(self.rows)
        true_fields = set().union(*(self._ancestors(topic) for topic in synset.topics))
        positives = {rng.choice(self.synsets[topic].words) for topic in synset.topics}
        negatives = [
            rng.choice(self.synsets[field].words)
            for field in rng.sample(self.fields, rng.randint(2, 12))
            if field not in true_fields
        ]
        if negatives and rng.random() < 0.3:  # Some labels are compounds, such as "physics and chemistry".
            positives = {f"{label} and {rng.choice(negatives)}" for label in positives}
            joined = set(" and ".join(positives).split(" and "))
            negatives = [label for label in negatives if label not in joined]
        items = [(label, 1.0) for label in positives] + [(label, 0.0) for label in negatives]
        rng.shuffle(items)
        gloss = re.sub(r"^\([^)]*\) ?", "", synset.gloss)
        text = gloss if rng.random() < 0.4 else f"{rng.choice(synset.words)}: {gloss}"
        return text, [label for label, _ in items], [target for _, target in items]


def mixed(sources: list[tuple[float, object]], rng: random.Random) -> Iterator[Request]:
    """Yields an endless stream of requests; each source is drawn with its weight."""
    weights = [weight for weight, _ in sources]
    while True:
        (_, source), *_ = rng.choices(sources, weights)
        yield source.draw(rng)  # type: ignore[attr-defined]
