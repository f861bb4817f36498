"""A source that a stage reads, as it says so before it begins."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from icegrt_jax.data.records import Record

Fit = Callable[[Sequence[Any]], tuple[list, dict[str, int]]]


@dataclasses.dataclass(frozen=True)
class Reading:
    """A source that a stage reads.

    Attributes:
      key: of the config, such as sft.sources.domain.
      spec: FORMAT:PATH.
      fit: what the stage makes of the records, with its counts.
      length: what they have to fit, in words.
      limit: records that are read; 0: all.
      later: it is made by the run, which has to rank answers for it, before it is read.
      check: refuses records that cannot be judged, or ranked.
      measures: nothing is trained on it, so it may change at any time.
    """

    key: str
    spec: str
    kind: type[Record]
    fit: Fit
    length: str
    limit: int = 0
    later: bool = False
    check: Callable[[Sequence[Any]], None] = lambda records: None
    measures: bool = False
