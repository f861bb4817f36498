"""Progress of a stage: a bar on a terminal, a few plain lines in a log file."""

import contextlib
import os
import sys
import time
from collections import defaultdict
from typing import Any, TextIO

import tqdm

from icegrt_jax.hosts import memory, sync
from icegrt_jax.training.compiles import Compiles

_LINE_SECONDS = 15.0  # a log file gets a line this often, and at every tenth of the way


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
    """

    def __init__(self, total_steps: int, title: str, *, start: int = 0, stream: TextIO | None = None):
        self._stream = stream or _log()
        self._total, self._title, self._step = total_steps, title, start
        self._phases: dict[str, float] = defaultdict(float)
        self._began = self._printed_at = time.perf_counter()
        # Step and time from which the rate is measured: after the first step, which compiles.
        self._rate_from: tuple[int, float] | None = None
        self.compiles = Compiles()
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm.tqdm(
                total=total_steps,
                initial=start,
                desc=title,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc} {bar:20} {n_fmt}/{total_fmt}{postfix}",
            )

    def begin(self) -> None:
        """Says in a log file why nothing is said for a while."""
        if self._bar is None and self._step < self._total:
            self._line(f"{self._step}/{self._total}  the first step compiles its programs")

    @contextlib.contextmanager
    def phase(self, name: str):
        """Counts the time spent inside under `name`; where memory runs out meanwhile, the error says so."""
        began = time.perf_counter()
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
        text = "  ".join(filter(None, [_metrics_text(metrics or {}), self._timing()]))
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif (
            self._tenth() > tenth_before
            or step >= self._total
            or time.perf_counter() - self._printed_at >= _LINE_SECONDS
        ):
            self._line(f"{step}/{self._total} {step / self._total:4.0%}  {text}")
        if self._rate_from is None:
            self._rate_from = (step, time.perf_counter())

    def close(self) -> None:
        """Ends the bar and prints the time taken, in all and by phase, and what was compiled."""
        self.compiles.close()
        if self._bar is not None:
            self._bar.close()
        elapsed = time.perf_counter() - self._began
        phases = ", ".join(f"{k} {_clock(v)}" for k, v in self._phases.items())
        self._line(
            f"{self._step}/{self._total} after {_clock(elapsed)}"
            + (f" ({phases})" if phases else "")
            + f"; {self.compiles}"
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def _tenth(self) -> int:
        return 10 * self._step // max(self._total, 1)

    def _timing(self) -> str:
        """Returns each phase's share of the time and the ETA, as far as they are known."""
        in_phases = sum(self._phases.values())
        text = " ".join(f"{k} {v / in_phases:.0%}" for k, v in self._phases.items() if in_phases)
        if self._rate_from is None:
            return text
        from_step, from_time = self._rate_from
        per_step = (time.perf_counter() - from_time) / max(self._step - from_step, 1)
        return f"{text}  {per_step:.3g} s/step, {_clock(per_step * (self._total - self._step))} left".lstrip()

    def _line(self, text: str) -> None:
        self._printed_at = time.perf_counter()
        print(f"{self._title}  {text}", file=self._stream, flush=True)


def print_header(title: str, what: str, *, number: int, total: int, stream: TextIO | None = None) -> None:
    """Prints the line a stage starts with: `[3/6] reward: ranking loss on 4000 answers`."""
    print(f"[{number}/{total}] {title}: {what}", file=stream or _log(), flush=True)


def _log() -> TextIO:
    """stderr; of several processes only the main one says where it is."""
    return sys.stderr if sync.is_main() else open(os.devnull, "w", encoding="utf-8")


def _metrics_text(metrics: dict[str, Any]) -> str:
    return "  ".join(f"{k} {float(v):.4g}" for k, v in metrics.items())


def _clock(seconds: float) -> str:
    """Returns 5.2 s, 3:07 or 2:03:09."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
