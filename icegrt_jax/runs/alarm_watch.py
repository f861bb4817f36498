"""Alarms while PPO trains: said once when one begins and when it ends, kept in `alarms.jsonl`, and an early end."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from icegrt_jax import files, sums
from icegrt_jax.config.options import PPOOptions
from icegrt_jax.hosts import sync
from icegrt_jax.runs import loop
from icegrt_jax.training.alarms import COLUMNS, Event, Given, Watch, merged
from icegrt_jax.training.metrics import plain_row

FILE = "alarms.jsonl"


def given(ppo: PPOOptions, *, weight: float, ranked: float | None = None) -> Given:
    """What the alarms of a run go by.

    Args:
      weight: of the reward model; 0: there is none. ranked: its accuracy on held-out rankings.
    """
    reward = "score_raw" if weight and not ppo.rewards else "score_scaled"
    sharper = min((ppo.kl.reference_temperature or ppo.temperature) / ppo.temperature, 1.0)
    return Given(
        ppo.alarms, drift=ppo.logprob_alarm, warmup=ppo.value_warmup, reward=reward, ranked=ranked, sharper=sharper
    )


class Alarms:
    """Looks at the numbers of every iteration, and at those that other watchers measure there.

    What holds is a function of the rows: a run that goes on reads them again, and says nothing twice.

    Args:
      given: see there.
      folder: of the stage; None: nothing is kept.
      measuring: other watchers, called by this one.
    """

    def __init__(self, given: Given, folder: pathlib.Path | None = None, measuring: Sequence[loop.Watcher] = ()):
        self._given, self._folder, self._measuring = given, folder, measuring
        self._watch = Watch(given)
        self._seen = 0

    def begin(self, step: int | None) -> bool:
        ended = any([watcher.begin(step) for watcher in self._measuring])
        self._watch = Watch(self._given)
        for at, row in sync.from_main("ppo: the rows so far are read", lambda: self._rows(step)):
            self._seen = at
            self._watch.look(at, row)
        if self._folder is not None and sync.is_main():
            path = self._folder / FILE
            lines = [json.dumps(event.row(), ensure_ascii=False) + "\n" for event in self._watch.events]
            if lines:
                files.write_text_atomic(path, "".join(lines), grows=True)
            else:
                path.unlink(missing_ok=True)
                sums.forget(path)
        return self._stops(step or 0, list(self._watch.holding)) or ended

    def after(self, step: int, outcome: loop.Outcome, write: loop.Write) -> bool:
        row = plain_row({name: value for name, value in outcome.metrics.items() if name in COLUMNS})

        def seen(metrics: dict[str, Any]) -> None:
            row.update(plain_row({name: value for name, value in metrics.items() if name in COLUMNS}))
            write(metrics)

        ended = any([watcher.after(step, outcome, seen) for watcher in self._measuring])
        found, self._seen = self._watch.look(step, row), step
        if found and sync.is_main():
            self._tell(found)
        for event in found if self._folder is not None else ():
            write({f"alarm/{event.alarm}": int(event.begins), f"alarm/{event.alarm}_said": event.text()})
        return self._stops(step, [event.alarm for event in found if event.begins]) or ended

    def summary(self) -> dict[str, Any]:
        """Says what there was in a line; what `done.json` says of it."""
        spans = self._watch.spans()
        parts = [f"{name} {', '.join(map(_span, of_alarm))}" for name, of_alarm in spans.items()]
        if sync.is_main():
            print(f"ppo  alarms: {'; '.join(parts) or f'none in {self._seen} iterations'}", flush=True)
        return {"alarms": spans} if spans else {}

    def _stops(self, step: int, names: Sequence[str]) -> bool:
        """Whether one of these alarms ends the stage, which is then said."""
        stopping = [name for name in names if name in self._given.options.stop]
        if stopping and sync.is_main():
            print(f"ppo: ends at step {step}: {', '.join(stopping)} is in ppo.alarms.stop", flush=True)
        return bool(stopping)

    def _rows(self, step: int | None) -> list[tuple[int, dict[str, Any]]]:
        """The numbers that alarms look at of every iteration so far."""
        path = None if self._folder is None else self._folder / "metrics.jsonl"
        if step is None or path is None or not path.exists():
            return []
        rows = [
            {name: value for name, value in row.items() if name == "step" or name in COLUMNS}
            for row in files.read_jsonl(path)
            if row["step"] <= step
        ]
        return sorted(merged(rows).items())

    def _tell(self, found: Sequence[Event]) -> None:
        for event in found:
            print(f"ppo  alarm: step {event.step}: {event.text()}", flush=True)
        if self._folder is not None:
            files.append_jsonl(self._folder / FILE, [event.row() for event in found])


def _span(span: tuple[int, int | None]) -> str:
    begin, end = span
    return f"from step {begin} on" if end is None else f"from step {begin} to {end}"
