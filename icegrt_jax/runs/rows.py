"""How the metrics of steps become rows: the means of several steps, or one row a step.

What a step says of its skipped updates (`training.updates`) is counted, see `Skips`; a row has `skipped` where there
was one, and its means are over the others.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from icegrt_jax.runs.skips import Skips
from icegrt_jax.training.finite import check_finite
from icegrt_jax.training.metrics import Writers
from icegrt_jax.training.progress import Progress
from icegrt_jax.training.window import Window


class Means:
    """A row has the means over the steps since the row before; they are read while the next step runs.

    One step runs ahead and no more: a step counts as done when the device has done it, not when it was asked to.

    Args:
      folder: the stage's.
      resume_step: of the checkpoint the run goes on from, None for a new run.
      shown: the metrics that the progress line names.
      left: says what there is to go on from, see `Checkpoints.left`.
      every: steps to a row; the first and the last step have one as well.
      skips: counts the updates that are skipped.
    """

    def __init__(
        self, folder: pathlib.Path, resume_step: int | None, writer: Writers, progress: Progress,
        shown: tuple[str, ...], *, left: Callable[[], str], every: int, skips: Skips,
    ):  # fmt: skip
        self._skips = skips
        self._window = Window(folder, resume_step=resume_step, check=functools.partial(check_finite, left=left))
        self._writer, self._progress, self._shown, self._every = writer, progress, shown, every
        self._pending: tuple[int, dict[str, Any]] | None = None

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes in the metrics of a step, and writes the row of the one before if it has one."""
        if self._pending is not None:
            self._log(*self._pending, every=self._every)
        self._pending = (step, metrics)

    def settle(self, step: int, *, last: bool) -> None:
        """Before a checkpoint of `step`: writes its row if it has one, and keeps the steps since the row before."""
        assert self._pending is not None, "a checkpoint is saved behind a step"
        self._log(*self._pending, every=1 if last else self._every)
        self._pending = None
        if not last:
            self._window.save(step)

    def _log(self, step: int, metrics: dict[str, Any], *, every: int) -> None:
        learned = {name: value for name, value in jax.block_until_ready(metrics).items() if name != "skipped"}
        if self._skips.add(step, metrics.get("skipped", 0.0)):
            self._window.skip()
        else:
            self._window.add(step, learned)
        if step % every and step != 1:
            self._progress.update(step)
            return
        means = self._window.means()
        self._writer.write(step, means)
        self._progress.update(step, {name: means[name] for name in self._shown if name in means})


class Single:
    """Every step has a row of its own, written at once; one that is not finite stops the run before it is saved."""

    def __init__(
        self, writer: Writers, progress: Progress, shown: tuple[str, ...], *, left: Callable[[], str], skips: Skips
    ):
        self._writer, self._progress, self._shown, self._left, self._skips = writer, progress, shown, left, skips

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        others = {name: value for name, value in metrics.items() if name != "skipped"}
        check_finite(step, others, self._left)  # names what has made the updates so, a score for instance
        flags = metrics.get("skipped", 0.0)
        skipped = self._skips.add(step, flags)
        if skipped:
            metrics = {"skipped": skipped} | (others if np.ndim(flags) else {})  # of a lone update nothing is left
        else:
            metrics = others
        self._writer.write(step, metrics)
        self._progress.update(step, {name: metrics[name] for name in self._shown if name in metrics})

    def settle(self, step: int, *, last: bool) -> None:
        """Nothing is held back."""


class Phases:
    """Writes how long each phase has taken since the last time it did, in seconds: `time/rollout_s` and so on.

    Args:
      every: steps to a row.
    """

    def __init__(self, progress: Progress, every: int):
        self._progress, self._every, self._before = progress, every, progress.phases()

    def after(self, step: int, write: Callable[[dict[str, Any]], None]) -> None:
        if step % self._every and step != 1:
            return
        now = self._progress.phases()
        write({f"time/{name}_s": round(seconds - self._before.get(name, 0.0), 6) for name, seconds in now.items()})
        self._before = now
