"""The data work of one host among several: it tokenises a part of the records, and lays out its rows of each batch.

Which rows there are and in what order does not depend on the number of hosts.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Share:
    """What this host does.

    Attributes:
      index: which host it is, of `count`.
      rows: its row numbers in a global batch of a given size; hosts may have the same ones.
      exchange: from a name and the JSON value of each host to the values of all, in their order.
    """

    index: int = 0
    count: int = 1
    rows: Callable[[int], Sequence[int]] = range
    exchange: Callable[[str, Any], list[Any]] = lambda name, value: [value]


WHOLE = Share()


def in_shares(
    fit: Callable[[Sequence[Any], int], tuple[list, dict[str, int]]], records: Sequence[Any], share: Share, name: str
) -> tuple[list, dict[str, int]]:
    """`fit(records, 0)` of all records, each host fitting its share of them; fitted lists come back as lists.

    Args:
      fit: from records that follow each other, and the place of the first, to fitted rows and counts.
      records: the same on every host.
      share: this host's.
      name: of the source, for messages.
    """
    if share.count == 1:
        return fit(records, 0)
    edges = np.linspace(0, len(records), share.count + 1).round().astype(int)
    start, stop = int(edges[share.index]), int(edges[share.index + 1])
    parts = share.exchange(f"tokens of {name}", fit(records[start:stop], start))
    counts = Counter(dict.fromkeys(parts[0][1], 0))
    for _, part in parts:
        counts.update(part)
    return [row for rows, _ in parts for row in rows], dict(counts)


class OwnRows:
    """A data source of batches: of global batch i this host's rows only, collated.

    Args:
      stream: elements; batch i is those from i * size on.
      size: of the global batch.
      rows: numbers of this host's rows.
      collate: from a list of elements to arrays.
    """

    def __init__(self, stream: Sequence[Any], size: int, rows: Sequence[int], collate: Callable[[Sequence[Any]], Any]):
        self._stream, self._size, self._rows, self._collate = stream, size, rows, collate

    def __len__(self) -> int:
        return len(self._stream) // self._size

    def __getitem__(self, step: int) -> Any:
        return self._collate([self._stream[step * self._size + row] for row in self._rows])
