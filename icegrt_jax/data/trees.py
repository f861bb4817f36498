"""Sequences laid out as a tree in one row: what they begin with alike is in it once.

One causal pass in which every token sees its path from the root (`models.transformer.tree_hidden`) reads each of them
as if it stood alone. The answers to a prompt share the prompt, and often their first words.
"""

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

STEP = 32  # widths of rows are multiples of it
RUNGS = 3  # different widths; each is a compiled program
OPEN = 2**30  # the end of a token that the next sequence may still continue


@dataclasses.dataclass
class Tree:
    """Sequences one behind the other; of sorted ones every beginning that some have in common is there once.

    tokens, positions (in its own sequence) and ends (the place behind the last token that continues it, OPEN of the
    sequence added last): i32[N] each, see `models.transformer.tree_hidden`.
    """

    tokens: list[int] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    ends: list[int] = dataclasses.field(default_factory=list)
    _ids: Sequence[int] = ()  # the sequence that was added last, and the places of its tokens
    _path: list[int] = dataclasses.field(default_factory=list)

    def add(self, ids: Sequence[int]) -> list[int]:
        """Places of the tokens of a sequence, what it shares with the one before it included."""
        kept, start = shared(self._ids, ids), len(self.tokens)
        for closed in self._path[kept:]:
            self.ends[closed] = start
        self.tokens += ids[kept:]
        self.positions += range(kept, len(ids))
        self.ends += [OPEN] * (len(ids) - kept)
        self._ids, self._path = ids, self._path[:kept] + list(range(start, len(self.tokens)))
        return self._path


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return bisect.bisect_left(range(1, most + 1), True, key=lambda size: one[:size] != other[:size])


def tree_of(sequences: Sequence[list[int]]) -> tuple[Tree, list[int]]:
    """The tree of some sequences, and of each the place of its last token."""
    tree, last = Tree(), [0] * len(sequences)
    for number in sorted(range(len(sequences)), key=lambda i: sequences[i]):
        last[number] = tree.add(sequences[number])[-1]
    return tree, last


def widths_of(limit: int) -> list[int]:
    """The widths of rows up to `limit` tokens: of 1, 2, 3, 4, 6, 8, 12, 16, ... times STEP the last RUNGS."""
    sizes = {STEP * size << power for size in (1, 3) for power in range(limit.bit_length())}
    return sorted(size for size in sizes if size <= limit)[-RUNGS:]


def arrays(trees: Sequence[Tree], width: int, pad_id: int) -> dict[str, np.ndarray]:
    """A tree in each row: tokens, positions, ends i32[B, W] and mask bool[B, W]; a token of padding sees itself."""
    shape = len(trees), width
    tokens: np.ndarray = np.full(shape, pad_id, np.int32)
    positions: np.ndarray = np.zeros(shape, np.int32)
    mask: np.ndarray = np.zeros(shape, np.bool_)
    ends = np.tile(np.arange(1, width + 1, dtype=np.int32), (len(trees), 1))
    for i, tree in enumerate(trees):
        used = len(tree.tokens)
        tokens[i, :used], positions[i, :used] = tree.tokens, tree.positions
        ends[i, :used] = np.minimum(np.array(tree.ends, np.int32), used)
        mask[i, :used] = True
    return {"tokens": tokens, "positions": positions, "ends": ends, "mask": mask}


def sequences_of(batch: dict[str, np.ndarray], row: int) -> list[np.ndarray]:
    """The sequences that end at `batch["last"][row]`, each read off its path: what the model reads."""
    places, ends = np.arange(batch["tokens"].shape[1]), batch["ends"][row]
    return [batch["tokens"][row][(places <= last) & (ends > last)] for last in batch["last"][row]]
