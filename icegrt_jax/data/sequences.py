"""Sequences over others that are never copied: what they hold is read when it is asked for."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from icegrt_jax.data.packing import Example

# Elements of a stream, more than any run reads: with Grain's own endless length, batches of one overflow.
ENDLESS = 2**48


class Examples(Sequence[Example]):
    """Fitted examples as what they are: those that came from another host are lists."""

    def __init__(self, rows: Sequence[Any]):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return Example(*self._rows[index])


class Chained(Sequence[Any]):
    """Sequences one after the other, none of them read before it is asked for; a slice is a list."""

    def __init__(self, parts: Iterable[Sequence[Any]]):
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        index = int(index) + (len(self) if index < 0 else 0)
        part = int(np.searchsorted(self._ends, index, side="right"))
        if index < 0 or part == len(self._parts):
            raise IndexError(index)
        return self._parts[part][int(index) - int(self._ends[part]) + len(self._parts[part])]


class Turns:
    """A data source of endless streams by turns: the first element of each, then the second of each."""

    def __init__(self, streams: Sequence[Any]):
        self._streams = streams

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Any:
        place, stream = divmod(index, len(self._streams))
        return self._streams[stream][place]


class Epochs:
    """A data source that goes on and on over `items`, each epoch in an order of its own.

    Grain's shuffle would do the same, but takes milliseconds for each element of a source of fewer than some
    thousand, which ours often are.
    """

    def __init__(self, items: Sequence[Any], seed: Sequence[int]):
        self._items, self._seed = items, tuple(seed)
        # (epoch, its order); one tuple, as threads may share it
        self._cached: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Any:
        epoch, place = divmod(index, len(self._items))
        cached_epoch, order = self._cached
        if cached_epoch != epoch:
            order = np.random.default_rng([*self._seed, epoch]).permutation(len(self._items))
            self._cached = (epoch, order)
        return self._items[int(order[place])]
