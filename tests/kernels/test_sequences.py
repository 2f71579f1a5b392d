"""The argument of every operation over sequences."""

from __future__ import annotations

import torch

from gliclass_fast.ops import TILE_ROWS, AdapterRows
from tests.kernels.cases import cumulative, sequences

BOUNDS = cumulative([3, 300, 1])
KEYS = torch.tensor([[10, 20], [0, 10], [20, 20]], dtype=torch.int32)


def test_rows_see_their_own_sequence_or_the_keys_they_are_given() -> None:
    rows = [(0, 3), (3, 303), (303, 304)]
    assert list(sequences(BOUNDS).ranges()) == list(zip(rows, rows, strict=True))
    keys = [(10, 20), (0, 10), (20, 20)]
    assert list(sequences(BOUNDS, KEYS).ranges()) == list(zip(rows, keys, strict=True))


def test_other_keys_go_into_the_work_list() -> None:
    changed, made = sequences(BOUNDS).with_keys(KEYS), sequences(BOUNDS, KEYS)
    assert changed.tiles[0].tolist() == made.tiles[0].tolist() == [5, TILE_ROWS, 0, 0]
    assert sorted(changed.tiles.tolist()) == sorted(made.tiles.tolist())  # the longest first, by other keys
    assert list(changed.ranges()) == list(made.ranges()) and changed.longest == made.longest == 300


def test_rows_with_adapters_are_split_by_the_sequences_of_each_call() -> None:
    rows, finer = AdapterRows(torch.tensor([0] * 3 + [-1] * 301).int()), sequences(cumulative([3, 100, 201]))
    for given, expected in ((sequences(BOUNDS), [300, 1]), (finer, [100, 201])):
        (_, first), (_, second) = rows.split(given)
        assert [length for length in first.bounds.diff().tolist() if length] == [3]
        assert [length for length in second.bounds.diff().tolist() if length] == expected
        assert rows.split(given) is rows.split(given)
