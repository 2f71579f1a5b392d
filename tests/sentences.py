"""These sentences are real or awkward, from nothing to several windows of local attention long."""

from __future__ import annotations

TEXTS = [
    "How do I locate my card?",
    "",
    "I would like to book a table for six at a rooftop bar in Oslo, tomorrow at eight in the evening.",
    "no movement , no yuks , not much of anything .",
    "Der Zug nach München fährt heute leider nicht. 🚄",
    "play the newest album",
    "Oil prices soar to an all-time record, posing a new menace to the economy just months before the vote. "
    "Traders said that the fear of a lasting shortage had reached every market.",
]
LABELS = [
    ["card arrival", "refund", "space"],
    ["a"],
    ["restaurant", "", "travel", "weather", "music"],
    ["positive", "negative"],
    ["Verkehr", "Politik", "положительный", "旅行"],
    ["music", "music", "sport"],
    ["business", "world politics", "sports", "science and technology"],
]
# for models to which a label given twice, or none at all, says nothing
DISTINCT = [list(dict.fromkeys(label or "empty" for label in own)) for own in LABELS]
# for Triton's interpreter, which takes seconds a sentence
SHORT_TEXTS = ["a card", "", "so good!"]
SHORT_LABELS = [["refund", "b"], ["a"], ["c", "d", "e"]]
MANY_SHORT_LABELS = [
    list("abcdefgh"),
    ["a", "refund"],
    list("ijklmnopq"),
]  # which give a 16-bit error meaning
