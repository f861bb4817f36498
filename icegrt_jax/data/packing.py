"""Ragged token lists laid out in rectangles: padded on one side, or packed several to a row.

Packing is greedy first-fit over a window of open rows, in the order given: the
same examples always give the same rows, and every token is in exactly one.
"""

import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

WINDOW = 64  # open rows; more fill rows better and mix distant examples


class Example(NamedTuple):
    """Token ids and, for each, whether the model has to predict it."""

    ids: list[int]
    mask: list[bool]


def left_pad(rows: Sequence[Sequence[int]], length: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """tokens i32[B, P] and mask bool[B, P], padding first."""
    tokens, mask = right_pad([row[::-1] for row in rows], length, pad_id)
    return tokens[:, ::-1].copy(), mask[:, ::-1].copy()


def right_pad(rows: Sequence[Sequence[int]], length: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """tokens i32[B, L] and mask bool[B, L], padding last."""
    tokens: np.ndarray = np.full((len(rows), length), pad_id, np.int32)
    mask: np.ndarray = np.zeros((len(rows), length), np.bool_)
    for i, row in enumerate(rows):
        assert len(row) <= length, f"row {i} has {len(row)} tokens for {length} places"
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = True
    return tokens, mask


class Rows(Sequence[dict[str, np.ndarray]]):
    """Rows of examples, each laid out when it is asked for; arrays as `pack` describes them."""

    def __init__(self, examples: Sequence[Example], places: np.ndarray, ends: np.ndarray, length: int, pad_id: int):
        # Row i has the examples places[ends[i - 1] : ends[i]].
        self._examples, self._places, self._ends = examples, places, ends
        self._length, self._pad_id = length, pad_id

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        end = self._ends[index]  # raises IndexError past the last
        start = self._ends[index - 1] if index % len(self) else 0
        return lay_out([self._examples[i] for i in self._places[start:end]], self._length, self._pad_id)


def pack(
    examples: Sequence[Example],
    length: int,
    pad_id: int,
    window: int = WINDOW,
    *,
    sizes: Sequence[int] | np.ndarray | None = None,
    order: Sequence[int] | np.ndarray | None = None,
) -> Rows:
    """Rows of several examples each.

    Args:
      examples: none longer than `length`.
      length: L, tokens in a row.
      pad_id: fills the rest of a row.
      window: how many rows are open at a time; at 1 the rows keep the examples' order.
      sizes: how many tokens each example has, where that is known without reading it.
      order: in which the examples are taken; as they come if None.

    Returns:
      One dict for each row: tokens i32[L]; segment_ids i32[L], 1, 2, ... for the
      examples in it and 0 for padding; positions i32[L], from 0 in each example;
      loss_mask bool[L], True where the token is a target. The first token of an
      example has nothing before it to be predicted from and is never a target.
    """
    sizes = [len(example.ids) for example in examples] if sizes is None else sizes
    places, ends = array.array("q"), array.array("q")
    open_rows: list[tuple[int, list[int]]] = []  # (tokens in it, its examples), the earliest opened first

    def close(row: list[int]) -> None:
        places.extend(row)
        ends.append(len(places))

    for place in range(len(sizes)) if order is None else order:
        place, size = int(place), int(sizes[place])
        assert size <= length, f"example of {size} tokens for rows of {length}"
        number = next((i for i, (used, _) in enumerate(open_rows) if used + size <= length), None)
        if number is None:
            if len(open_rows) == window:
                close(open_rows.pop(max(range(window), key=lambda i: open_rows[i][0]))[1])
            open_rows.append((size, [place]))
        else:
            used, row = open_rows[number]
            row.append(place)
            open_rows[number] = (used + size, row)
    for _, row in open_rows:
        close(row)
    return Rows(examples, np.array(places, np.int64), np.array(ends, np.int64), length, pad_id)


def one_per_row(
    examples: Sequence[Example],
    length: int,
    pad_id: int,
    *,
    sizes: Sequence[int] | np.ndarray | None = None,
    order: Sequence[int] | np.ndarray | None = None,
) -> Rows:
    """Rows of one example each, in the order given, with the arguments and arrays of `pack`."""
    del sizes  # of no matter here
    places = np.arange(len(examples)) if order is None else np.asarray(order)
    return Rows(examples, places, np.arange(1, len(examples) + 1), length, pad_id)


def lay_out(examples: Sequence[Example], length: int, pad_id: int) -> dict[str, np.ndarray]:
    """One row holding the given examples one after another.

    tokens i32[L]; segment_ids i32[L], 1, 2, ... and 0 for padding; positions i32[L], from 0 in each example; loss_mask
    bool[L], True at targets.
    """
    row: dict[str, np.ndarray] = {
        "tokens": np.full(length, pad_id, np.int32),
        "segment_ids": np.zeros(length, np.int32),
        "positions": np.zeros(length, np.int32),
        "loss_mask": np.zeros(length, np.bool_),
    }
    start = 0
    for segment, example in enumerate(examples, start=1):
        places = slice(start, start + len(example.ids))
        row["tokens"][places] = example.ids
        row["segment_ids"][places] = segment
        row["positions"][places] = np.arange(len(example.ids))
        row["loss_mask"][places] = example.mask
        row["loss_mask"][start] = False
        start += len(example.ids)
    return row
