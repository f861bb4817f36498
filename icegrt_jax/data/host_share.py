"""The data work of one host among several: it tokenises a part of the records, and lays out its rows of each batch.

Which rows there are and in what order does not depend on the number of hosts.
"""

import array
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


Fit = Callable[[Sequence[Any], int], tuple[list, dict[str, int]]]


class Anew(Sequence[Any]):
    """Fitted rows of records that are not kept in memory: each is read and fitted anew when it is asked for."""

    def __init__(self, fit: Fit, records: Sequence[Any], places: np.ndarray):
        # Row i is number places[i, 1] of those that record places[i, 0] gives.
        self._fit, self._records, self._places = fit, records, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index) -> Any:
        record, number = self._places[index].tolist()
        return self._fit([self._records[record]], record)[0][number]


def in_shares(
    fit: Fit, records: Sequence[Any], share: Share, name: str, measure: Callable[[Any], list[int]]
) -> tuple[Sequence[Any], np.ndarray, dict[str, int]]:
    """The rows of `fit(records, 0)`, the measures of each, and the counts; each host fits its share of the records.

    Rows of records that lie on a disk (`token_store.Stored`) are not kept, only where each comes from.

    Args:
      fit: from records that follow each other, and the place of the first, to fitted rows and counts, each record by
        itself; with several hosts fitted lists come back as lists.
      records: the same on every host.
      share: this host's.
      name: of the source, for messages.
      measure: numbers of a row, i64[N, M] of all.
    """
    stored = not isinstance(records, list | tuple)
    edges = np.linspace(0, len(records), share.count + 1).round().astype(int)
    start, stop = int(edges[share.index]), int(edges[share.index + 1])
    own: tuple[Any, Any, dict[str, int]]
    if stored:
        own = _placed(fit, records, range(start, stop), measure)
    else:
        fitting, more = fit(records[start:stop] if share.count > 1 else records, start)
        own = fitting, [number for row in fitting for number in measure(row)], more
    parts: list[Any] = [own] if share.count == 1 else share.exchange(f"tokens of {name}", [*map(_as_json, own)])
    counts: Counter = Counter(dict.fromkeys(parts[0][2], 0))
    for part in parts:
        counts.update(part[2])
    measures = np.concatenate([np.asarray(part[1], np.int64) for part in parts])
    rows: Sequence[Any]
    if stored:
        places = np.concatenate([np.asarray(part[0], np.int64) for part in parts]).reshape(-1, 2)
        rows = Anew(fit, records, places)
    else:
        rows = parts[0][0] if len(parts) == 1 else [row for part in parts for row in part[0]]
    # Of no rows NumPy could not tell how many measures each has.
    measures = measures.reshape(len(rows), -1) if len(rows) else np.zeros((0, 2), np.int64)
    return rows, measures, dict(counts)


def _placed(
    fit: Fit, records: Sequence[Any], places: range, measure: Callable[[Any], list[int]]
) -> tuple[array.array, array.array, dict[str, int]]:
    """(record and number of each row, its measures, counts), the rows themselves dropped one after the other."""
    found, measures, counts = array.array("q"), array.array("q"), Counter(fit([], 0)[1])
    for place in places:
        rows, more = fit([records[place]], place)
        counts.update(more)
        for number, row in enumerate(rows):
            found.extend((place, number))
            measures.extend(measure(row))
    return found, measures, counts


def _as_json(part: Any) -> Any:
    return part.tolist() if isinstance(part, array.array) else part


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
