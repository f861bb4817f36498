"""Ragged token lists laid out in rectangles: padded on one side, or packed several to a row.

Packing is greedy first-fit over a window of open rows, in the order given: the
same examples always give the same rows, and every token is in exactly one.
"""

from collections.abc import Sequence
from typing import NamedTuple

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


def pack(examples: Sequence[Example], length: int, pad_id: int, window: int = WINDOW) -> list[dict[str, np.ndarray]]:
    """Rows of several examples each.

    Args:
      examples: none longer than `length`.
      length: L, tokens in a row.
      pad_id: fills the rest of a row.
      window: how many rows are open at a time; at 1 the rows keep the examples' order.

    Returns:
      One dict for each row: tokens i32[L]; segment_ids i32[L], 1, 2, ... for the
      examples in it and 0 for padding; positions i32[L], from 0 in each example;
      loss_mask bool[L], True where the token is a target. The first token of an
      example has nothing before it to be predicted from and is never a target.
    """
    done: list[list[Example]] = []
    open_rows: list[list[Example]] = []
    for example in examples:
        assert len(example.ids) <= length, f"example of {len(example.ids)} tokens for rows of {length}"
        row = next((row for row in open_rows if _size(row) + len(example.ids) <= length), None)
        if row is None:
            if len(open_rows) == window:
                fullest = max(range(window), key=lambda i: _size(open_rows[i]))
                done.append(open_rows.pop(fullest))
            row = []
            open_rows.append(row)
        row.append(example)
    return [lay_out(row, length, pad_id) for row in (*done, *open_rows)]


def one_per_row(examples: Sequence[Example], length: int, pad_id: int) -> list[dict[str, np.ndarray]]:
    """Rows of one example each, in the order given, with the arrays that rows of several examples (`pack`) have."""
    return [lay_out([example], length, pad_id) for example in examples]


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


def _size(row: list[Example]) -> int:
    return sum(len(example.ids) for example in row)
