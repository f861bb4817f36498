"""Which alarms begin and end, row by row.

An alarm begins where its mean is beyond the bound by the errors, and ends when it is back within the bound; in between
nothing is said.

>>> rows = [{"step": step, "kl": -1.0 + 0.01 * (step % 2)} for step in range(1, 11)]
>>> [(event.step, event.alarm, event.begins) for event in events(rows, Given())]
[(8, 'negative_kl', True)]
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from icegrt_jax.training.alarms.causes import CAUSES
from icegrt_jax.training.alarms.history import Given, History, Reading
from icegrt_jax.training.alarms.measures import COLUMNS, MEASURES


@dataclasses.dataclass(frozen=True)
class Event:
    """An alarm that begins or ends.

    Attributes:
      measured: in words. cause: the likely one. change: {key of the config: how}.
    """

    step: int
    alarm: str
    begins: bool
    metric: str
    value: float
    bound: float
    measured: str
    cause: str
    change: Mapping[str, str]

    def row(self) -> dict[str, Any]:
        """As `alarms.jsonl` has it."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """The sentence that a run prints."""
        if not self.begins:
            return f"{self.alarm} has ended: {self.measured}"
        change = ", ".join(f"{key} {how}" for key, how in self.change.items())
        return f"{self.alarm}: {self.measured}. Likely cause: {self.cause}. Change: {change}."


class Watch:
    """Follows a run row by row.

    Attributes:
      holding: the alarms that hold, each with the event it began with.
      events: all so far.
    """

    def __init__(self, given: Given):
        self.given, self.history = given, History()
        self.holding: dict[str, Event] = {}
        self.events: list[Event] = []

    def look(self, step: int, row: Mapping[str, Any]) -> list[Event]:
        """What begins and ends with the numbers of an iteration."""
        self.history.add(step, {name: row[name] for name in COLUMNS if name in row})
        found = []
        for name, measure in MEASURES.items():
            if name in self.given.options.off or (reading := measure(self.history, self.given)) is None:
                continue
            if reading.beyond and name not in self.holding:
                self.holding[name] = _event(step, name, True, reading)
                found.append(self.holding[name])
            elif reading.within and name in self.holding:
                del self.holding[name]
                found.append(_event(step, name, False, reading))
        self.events += found
        return found

    def spans(self) -> dict[str, list[tuple[int, int | None]]]:
        """{alarm: (first step, step at which it has ended or None), ...}."""
        found: dict[str, list[tuple[int, int | None]]] = {}
        for event in self.events:
            of_alarm = found.setdefault(event.alarm, [])
            if event.begins:
                of_alarm.append((event.step, None))
            else:
                of_alarm[-1] = (of_alarm[-1][0], event.step)
        return found


def _event(step: int, name: str, begins: bool, reading: Reading) -> Event:
    cause, change = CAUSES[name]
    return Event(step, name, begins, reading.metric, reading.value, reading.bound, reading.said, cause, change)


def merged(rows: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The rows of `metrics.jsonl` by their step: what was measured beside an iteration has a row of its own there."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row["step"], {}).update(row)
    return found


def events(rows: Iterable[Mapping[str, Any]], given: Given) -> list[Event]:
    """Every beginning and end of an alarm in the rows of a `metrics.jsonl`."""
    watch = Watch(given)
    for step, row in sorted(merged(rows).items()):
        watch.look(step, row)
    return watch.events
