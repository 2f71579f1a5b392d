"""Chunks: a long text is cut into pieces that overlap, by characters as in the reference, or by tokens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from gliclass_fast.text.errors import WrongValue


def by_characters(text: str, size: int, overlap: int) -> list[str]:
    """Cuts a text into pieces of `size` characters, of which neighbours share `overlap` characters.

    Raises ValueError unless 0 <= overlap < size, where a text is longer than a chunk.
    """
    if len(text) <= size:
        return [text]
    if size <= 0 or not 0 <= overlap < size:
        raise WrongValue(
            f"chunks of {size} characters cannot overlap by {overlap}: need "
            "0 <= text_chunk_overlap < text_chunk_size"
        )
    starts = range(0, len(text) - overlap, size - overlap)
    return [text[start : start + size] for start in starts]


def by_tokens(
    text: str, starts: list[int], size: int, overlap: int, excess: Callable[[str], int]
) -> list[str]:
    """Cuts a text into pieces of at most `size` tokens, of which neighbours share about `overlap` tokens.

    It cuts between words where a word ends in the second half of a piece. Together the pieces have every
    character of the text.

    Args:
        starts: the place of the first character of every token of the text. Tokens that start behind the
            text belong to its last characters.
        excess: says by how many tokens a piece is too long. The tokens of a piece alone may be others than
            those of the same characters in the whole text, so every piece is asked for.
    """
    places = accumulate([0, *starts[1:]], max)
    bounds = [*(place for place in places if place < len(text)), len(text)]
    count = len(bounds) - 1

    def between_words(last: int, least: int) -> int:
        """Returns the nearest token from `last` back to `least` that starts a word, else `last`."""
        if last >= count:
            return count
        for place in range(last, least, -1):
            start = bounds[place]
            if text[start].isspace() or text[start - 1].isspace():
                return place
        return last

    def ending(first: int, most: int) -> int:
        last = between_words(first + most, first + most // 2)
        while last < count and bounds[last] == bounds[first]:  # tokens of one and the same character
            last += 1
        return last

    chunks: list[str] = []
    first = done = 0
    while True:
        most, last = size, ending(first, size)
        while most > 1 and (over := excess(text[bounds[first] : bounds[last]])) > 0:
            most = max(1, min(most, last - first) - over)
            last = ending(first, most)
        if chunks and bounds[last] <= bounds[done]:  # it had to be so short that it holds nothing new
            first = done
            continue
        chunks.append(text[bounds[first] : bounds[last]])
        if last >= count:
            return chunks
        shared = min(overlap, (last - first) // 2)
        first, done = between_words(last - shared, last - 2 * shared) if shared else last, last
