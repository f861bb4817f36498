"""Sequences laid out as trees, several to a row: what they begin with alike is in it once.

A row is computed by one causal pass in which every token sees its path from the root, so that a context with its
choices, a task's examples with all of its questions, and texts that have nothing in common are read as if each stood
alone. No token is padding but those behind the last tree of a row.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from icegrt_jax.data import trees
from icegrt_jax.data.trees import shared

NARROWEST = 256  # tokens of a row at least
RELATED = 4  # sequences are of one family where they begin alike for this part of the longer one
CHOICES = 8  # targets behind one place of a row; more take the place again
OPEN = 64  # rows that are filled at a time


@dataclasses.dataclass(frozen=True)
class Request:
    """A sequence whose end is to be scored. ids: what is read. targets: what its last places are to predict."""

    ids: tuple[int, ...]
    targets: tuple[int, ...]


@dataclasses.dataclass
class Row(trees.Tree):
    """Trees in a row, without padding.

    slots: places whose predictions are read. targets: up to CHOICES tokens for each.
    where: of each request its number and, for each of its targets, (slot, which of the slot's targets).
    """

    slots: list[int] = dataclasses.field(default_factory=list)
    targets: list[list[int]] = dataclasses.field(default_factory=list)
    where: list[tuple[int, list[tuple[int, int]]]] = dataclasses.field(default_factory=list)


def widths(longest: int, limit: int) -> list[int]:
    """Powers of two that rows may have, the last one for `longest` tokens or up to `limit` where that is more."""
    found = [NARROWEST]
    while found[-1] < max(longest, limit):
        found.append(2 * found[-1])
    return found


def plan(requests: Sequence[Request], *, batch: int, pair_cost: float) -> dict[int, list[Row]]:
    """Rows of few widths that hold all requests: {tokens of a row: the rows}.

    Args:
      requests: each with a token to read and a target at least.
      batch: tokens that are computed at a time; of a width that would not fill one, rows go into wider ones.
      pair_cost: what a token costs for each token of its row, where all else of it costs 1.
    """
    order = sorted(range(len(requests)), key=lambda i: requests[i].ids)
    ids = [requests[i].ids for i in order]
    alike = [0, *(shared(a, b) for a, b in zip(ids, ids[1:], strict=False))]
    possible = widths(max(map(len, ids)), min(batch, 4 * NARROWEST))
    size = len_of(ids, alike)
    wanted: dict[int, list[range]] = {width: [] for width in possible}
    for family in _families(ids, alike):
        fitting = [width for width in possible if width >= max(len(ids[i]) for i in family)]
        tokens = [sum(map(size, _pieces(family, ids, alike, width))) for width in fitting]
        costs = [count * (1 + pair_cost * width) for count, width in zip(tokens, fitting, strict=True)]
        wanted[fitting[costs.index(min(costs))]].append(family)
    rows = {}
    for width in possible:
        pieces = [piece for family in wanted[width] for piece in _pieces(family, ids, alike, width)]
        if width != possible[-1] and sum(map(size, pieces)) < batch:
            wanted[2 * width] += wanted[width]
            continue
        if pieces:
            rows[width] = [
                _row(sorted(i for p in row for i in p), order, requests) for row in _fill(pieces, size, width)
            ]
    return rows


def len_of(ids: Sequence[tuple[int, ...]], alike: Sequence[int]):
    """Gives the number of tokens of a tree of neighbouring sequences."""
    return lambda piece: len(ids[piece[0]]) + sum(len(ids[i]) - alike[i] for i in piece[1:])


def _families(ids: Sequence[tuple[int, ...]], alike: Sequence[int]) -> list[range]:
    """Neighbours that begin alike for a good part."""
    starts = [i for i in range(len(ids)) if i == 0 or RELATED * alike[i] < max(len(ids[i - 1]), len(ids[i]))]
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]


def _pieces(family: range, ids: Sequence[tuple[int, ...]], alike: Sequence[int], width: int) -> list[range]:
    """The family cut where a row is full; each piece has what its sequences begin with anew."""
    pieces, start, used = [], family[0], 0
    for i in family:
        more = len(ids[i]) - (alike[i] if i > start else 0)
        if used + more > width:
            pieces.append(range(start, i))
            start, used, more = i, 0, len(ids[i])
        used += more
    return [*pieces, range(start, family[-1] + 1)]


def _fill(pieces: list[range], size, width: int) -> list[list[range]]:
    """Pieces put into rows, the largest first, each into the first row that has room."""
    full: list[list] = []
    open_rows: list[list] = []  # of tokens left, pieces
    for piece in sorted(pieces, key=size, reverse=True):
        needed = size(piece)
        row = next((row for row in open_rows if row[0] >= needed), None)
        if row is None:
            row = [width, []]
            open_rows.append(row)
            if len(open_rows) > OPEN:
                full.append(open_rows.pop(0))
        row[0] -= needed
        row[1].append(piece)
    return [row[1] for row in (*full, *open_rows)]


def _row(places: list[int], order: Sequence[int], requests: Sequence[Request]) -> Row:
    """The row of some sequences, given by their places in `order`."""
    row = Row()
    slot_of: dict[int, list[int]] = {}  # place -> its slots
    for place in places:
        number = order[place]
        request = requests[number]
        predictors = row.add(request.ids)[len(request.ids) - len(request.targets) :]
        found = [_slot(row, slot_of, *pair) for pair in zip(predictors, request.targets, strict=True)]
        row.where.append((number, found))
    return row


def _slot(row: Row, slot_of: dict[int, list[int]], place: int, target: int) -> tuple[int, int]:
    """Where the prediction of `target` at `place` is read."""
    for slot in slot_of.setdefault(place, []):
        if target in row.targets[slot]:
            return slot, row.targets[slot].index(target)
        if len(row.targets[slot]) < CHOICES:
            row.targets[slot].append(target)
            return slot, len(row.targets[slot]) - 1
    slot_of[place].append(len(row.slots))
    row.slots.append(place)
    row.targets.append([target])
    return len(row.slots) - 1, 0


def arrays(rows: Sequence[Row], count: int, width: int, slots: int) -> dict[str, np.ndarray]:
    """`count` rows as arrays, those that are missing empty.

    tokens, positions, ends: i32[count, width]; a token of padding sees itself. slots: i32[count, slots];
    targets: i32[count, slots, CHOICES]; mask: bool[count, slots], the slots in use.
    """
    of_trees = trees.arrays([*rows, *[Row()] * (count - len(rows))], width, 0)
    places: np.ndarray = np.zeros((count, slots), np.int32)
    mask = places > 0
    targets: np.ndarray = np.zeros((count, slots, CHOICES), np.int32)
    for i, row in enumerate(rows):
        places[i, : len(row.slots)] = row.slots
        mask[i, : len(row.slots)] = True
        for slot, wanted in enumerate(row.targets):
            targets[i, slot, : len(wanted)] = wanted
    return {**of_trees, "slots": places, "targets": targets, "mask": mask}
