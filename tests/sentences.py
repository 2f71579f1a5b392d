"""Real and awkward sentences for parity tests; lengths from nothing to several windows of local attention."""

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
