"""Questions for a server: a text and its labels as a request, with the scores that the library gives."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gliclass_fast.bench import cases
from gliclass_fast.bench.load_connection import Reply

TOLERANCE = 1e-5  # of a score in float32: docs/parity.md
TEXT_WORDS = (16, 112)  # a word is a token
LABELS = 6


@dataclass(frozen=True, slots=True)
class Question:
    """A question is the body of a request of one text, and the score of each of its labels."""

    text: str
    scores: Mapping[str, float]

    @property
    def labels(self) -> list[str]:
        return list(self.scores)

    @property
    def body(self) -> bytes:
        return json.dumps({"text": self.text, "labels": self.labels, "threshold": 0.0}).encode()

    def fault(self, reply: Reply, tolerance: float) -> str | None:
        """Returns what is wrong with a reply of status 200, or None: every label, once, and its score."""
        try:
            found = [(each["label"], each["score"]) for each in json.loads(reply.body)]
            scores = dict(found)
        except (ValueError, TypeError, KeyError):
            return f"no list of labels with scores: {reply.body[:100]!r}"
        if len(found) != len(scores) or scores.keys() != self.scores.keys():
            return f"labels {list(scores)}, not {self.labels}"
        error = max((abs(scores[label] - score) for label, score in self.scores.items()), default=0.0)
        return None if error <= tolerance else f"a score is wrong by {error:.1e}"


@dataclass(frozen=True, slots=True)
class Target:
    """A target is the address of a server and how near its scores must come."""

    port: int
    host: str = "127.0.0.1"
    path: str = "/gliclass"
    tolerance: float = TOLERANCE

    def request(self, question: Question) -> bytes:
        body = question.body
        head = f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


def drawn(count: int, mixed: bool, tokenizer: Any, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Draws texts of known words, each with its labels.

    mixed: every text has labels of its own; else all have the same ones. Both have as many tokens.
    """
    chance, words = random.Random(seed), cases.words(tokenizer)
    equal = chance.sample(words, LABELS)
    return [
        (
            " ".join(chance.choices(words, k=chance.randint(*TEXT_WORDS))),
            chance.sample(words, LABELS) if mixed else equal,
        )
        for _ in range(count)
    ]


def scored(
    pairs: Sequence[tuple[str, list[str]]], pipeline: Callable[..., list[list[dict[str, Any]]]]
) -> list[Question]:
    """Returns the pairs as questions; a pipeline of the library finds their scores."""
    texts, labels = zip(*pairs, strict=True)
    answers = pipeline(list(texts), list(labels), threshold=0.0)
    return [
        Question(text, {each["label"]: each["score"] for each in answer})
        for text, answer in zip(texts, answers, strict=True)
    ]
