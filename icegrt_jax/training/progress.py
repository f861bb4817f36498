"""Progress of a stage: on a terminal a bar below its history, elsewhere a few plain lines."""

import contextlib
import os
import pathlib
import sys
import time
from collections import defaultdict
from typing import Any, TextIO

from rich.text import Text

from icegrt_jax import terminal
from icegrt_jax.hosts import memory, sync
from icegrt_jax.hosts.note import Note
from icegrt_jax.training.bar import Bar
from icegrt_jax.training.compiles import Compiles

_LINE_SECONDS = 15.0  # a log file gets a line this often, and at every tenth of the way
_SLOW = 3.0  # a step that takes so many times as long as others, and as many seconds, is said to be in its phase


class Progress:
    """Shows how far a stage is, where its time goes and when it will be done.

        progress = Progress(config.steps, "ppo", start=start)
        for step in range(start + 1, config.steps + 1):
            with progress.phase("rollout"):
                ...
            progress.update(step, {"score": score, "kl": kl})
        progress.close()

    Args:
      total_steps: the last step.
      title: the stage's name.
      start: the step the run goes on from; the ETA is made from this run's steps only.
      stream: where to write, stderr by default.
      workdir: where `icegrt status` finds how far it is; None: nowhere.
    """

    def __init__(
        self, total_steps: int, title: str, *, start: int = 0, stream: TextIO | None = None,
        workdir: pathlib.Path | None = None,
    ):  # fmt: skip
        self._stream = stream or _log()
        self._total, self._title, self._step = total_steps, title, start
        self._phases: dict[str, float] = defaultdict(float)
        self._phase = ""  # that is going on, or was the last one
        self._metrics: dict[str, float] = {}
        self._began = self._printed_at = self._step_began = time.perf_counter()
        # Step and time from which the rate is measured: after the first step, which compiles.
        self._rate_from: tuple[int, float] | None = None
        self.compiles = Compiles()
        self._note = Note(workdir if sync.is_main() else None)
        self._bar = Bar(self._stream, self._row) if terminal.is_live(self._stream) else None

    def begin(self) -> None:
        """Says in a log file why nothing is said for a while."""
        self._note.write(self._said(), now=True)
        if self._bar is None and self._step < self._total:
            self._line(f"{self._step}/{self._total}  the first step compiles its programs")

    @contextlib.contextmanager
    def phase(self, name: str):
        """Counts the time spent inside under `name`; where memory runs out meanwhile, the error says so."""
        began, self._phase = time.perf_counter(), name
        self._note.write(self._said())
        with memory.explained(f"{self._title}, {name} of step {self._step + 1}", self._title, name):
            try:
                yield
            finally:
                self._phases[name] += time.perf_counter() - began

    def phases(self) -> dict[str, float]:
        """Returns the seconds spent in each phase so far, in the order they first ran."""
        return dict(self._phases)

    def update(self, step: int, metrics: dict[str, Any] | None = None) -> None:
        """Shows that `step` is done, with some metrics of it (numbers on the host)."""
        tenth_before, self._step = self._tenth(), step
        self._step_began = time.perf_counter()
        if metrics:
            self._metrics = {name: float(value) for name, value in metrics.items()}
        if (
            self._tenth() > tenth_before
            or step >= self._total
            or (self._bar is None and self._step_began - self._printed_at >= _LINE_SECONDS)
        ):
            of_step = _metrics_text(self._metrics if metrics else {})
            self._line(f"{step}/{self._total} {step / self._total:4.0%}", [*of_step, self._shares()], self._timing())
        if self._rate_from is None:
            self._rate_from = (step, self._step_began)
        self._note.write(self._said())

    def close(self, *, done: bool = True) -> None:
        """Ends the bar and prints the time taken, in all and by phase, and what was compiled.

        Args:
          done: no error has ended it.
        """
        self.compiles.close()
        if self._bar is not None:
            self._bar.close()
        if done:
            self._note.remove()
        else:
            self._note.write(self._said(), now=True)
        elapsed = time.perf_counter() - self._began
        phases = ", ".join(f"{k} {terminal.clock(v)}" for k, v in self._phases.items())
        self._line(
            f"{self._step}/{self._total} after {terminal.clock(elapsed)}"
            + (f" ({phases})" if phases else "")
            + f"; {self.compiles}"
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind, *exc_info) -> None:
        self.close(done=kind is None)

    def _tenth(self) -> int:
        return 10 * self._step // max(self._total, 1)

    def _per_step(self) -> float | None:
        """Seconds, as far as they are known."""
        if self._rate_from is None or self._step <= self._rate_from[0]:
            return None
        from_step, from_time = self._rate_from
        return (self._step_began - from_time) / (self._step - from_step)

    def _shares(self) -> str:
        """Each phase's share of the time."""
        phases = dict(self._phases)  # the bar's thread reads while the stage's own writes
        in_phases = sum(phases.values())
        return " ".join(f"{k} {v / in_phases:.0%}" for k, v in phases.items() if in_phases)

    def _timing(self) -> str:
        """Returns the time that a step takes and the ETA, as far as they are known."""
        per_step = self._per_step()
        if per_step is None:
            return ""
        return f"{per_step:.3g} s/step, {terminal.clock(per_step * (self._total - self._step))} left"

    def _row(self) -> tuple[str, float, list[str], str]:
        """Title, share done, what may be left out and what may not, of the bar as it is now."""
        share = self._step / max(self._total, 1)
        since, per_step = time.perf_counter() - self._step_began, self._per_step()
        count = f"{self._step}/{self._total}"
        if self._rate_from is None and self._step < self._total:
            # Until its first step has been done a stage compiles, whatever its phase is called.
            made = f", {self.compiles.programs} programs" if self.compiles.programs else ""
            doing = f"{self._phase}, compiling" if self._phase else "compiling"
            return self._title, share, [count], f"{doing}… {terminal.clock(since)}{made}"
        middle = [count, *_metrics_text(self._metrics), self._shares()]
        if since > _SLOW * max(per_step or 0.0, 1.0) and self._step < self._total:
            middle.insert(1, f"{self._phase}… {terminal.clock(since)}")
        return self._title, share, middle, self._timing()

    def _said(self) -> dict[str, Any]:
        """For the note."""
        return {
            "stage": self._title, "step": self._step, "total": self._total, "phase": self._phase,
            "compiling": self._rate_from is None, "s_per_step": self._per_step(), "metrics": self._metrics,
        }  # fmt: skip

    def _line(self, first: str, middle: list[str] | None = None, last: str = "") -> None:
        self._printed_at = time.perf_counter()
        if self._bar is None:
            text = terminal.fitted(first, middle or [], last, None)
            print(f"{self._title}  {text}", file=self._stream, flush=True)
        else:
            self._bar.line(self._title, first, middle or [], last)


def print_header(title: str, what: str, *, number: int, total: int, stream: TextIO | None = None) -> None:
    """Prints the line a stage starts with: `[3/6] reward: ranking loss on 4000 answers`."""
    stream = stream or _log()
    line = f"[{number}/{total}] {title}: {what}"
    if terminal.is_live(stream):
        terminal.console(stream).print(Text(line, style="bold"))
    else:
        print(line, file=stream, flush=True)


def _log() -> TextIO:
    """stderr; of several processes only the main one says where it is."""
    return sys.stderr if sync.is_main() else open(os.devnull, "w", encoding="utf-8")


def _metrics_text(metrics: dict[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in metrics.items()]
