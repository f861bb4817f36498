"""The updates between two rows of metrics: a row has their means, so that a curve is of all updates, not of some."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from icegrt_jax import files
from icegrt_jax.hosts import sync

HELD = 64  # steps whose metrics may wait on the device


class Window:
    """Means of scalar metrics over the steps since the last row; every step counts the same.

    Metrics are read from the device for a row or a checkpoint, else only when many wait, the newest never: the loop
    does not wait for it. Sums are float64 and made in the order of the steps, so it does not matter when that is.

    Args:
      directory: the stage's folder; `window.jsonl` there has the sums of a window that a checkpoint falls into.
      resume_step: the step of the checkpoint the run goes on from, with its open window; None for a new run.
      check: called before a row with the first step that is not finite and what it made of the sums, to refuse them.
    """

    def __init__(
        self, directory: pathlib.Path, *, resume_step: int | None, check: Callable[[int, dict], None] = lambda *_: None
    ):
        self._path, self._check = pathlib.Path(directory) / "window.jsonl", check
        kept = sync.from_main("the open window is looked for", lambda: self._kept(resume_step))
        self._count, self._sums, self._skipped = kept["count"], kept["sums"], kept.get("skipped", 0)
        self._waiting: list[tuple[int, dict[str, jax.Array]]] = []
        self._bad: tuple[int, dict] | None = None

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes in the metrics of a step, f32[] each, on the device."""
        assert all(np.ndim(value) == 0 for value in metrics.values()), "an array has no mean over steps"
        self._waiting.append((step, metrics))
        if len(self._waiting) > HELD:
            newest = self._waiting.pop()
            self._read()
            self._waiting = [newest]

    def skip(self) -> None:
        """Takes in a step whose update was skipped: it is counted, and in no mean."""
        self._skipped += 1

    def means(self) -> dict[str, np.float32]:
        """The means of the window, which ends here; `skipped` where there were such steps, which may have been all."""
        self._read()
        if self._bad is not None:
            self._check(*self._bad)
        means = {name: np.float32(total / self._count) for name, total in self._sums.items()}
        means |= {"skipped": np.float32(self._skipped)} if self._skipped else {}
        self._count, self._sums, self._skipped = 0, {}, 0
        return means

    def save(self, step: int) -> None:
        """Keeps the open window beside the checkpoint of `step`; called before that is saved."""
        self._read()
        if (self._count or self._skipped) and sync.is_main():
            skipped = {"skipped": self._skipped} if self._skipped else {}
            files.append_jsonl(self._path, [{"step": step, "count": self._count, "sums": self._sums, **skipped}])

    def _read(self) -> None:
        steps = [step for step, _ in self._waiting]
        for step, metrics in zip(steps, jax.device_get([metrics for _, metrics in self._waiting]), strict=True):
            self._count += 1
            self._sums = {name: self._sums.get(name, 0.0) + float(metrics[name]) for name in metrics}
            if self._bad is None and not all(map(math.isfinite, self._sums.values())):
                self._bad = (step, self._sums)
        self._waiting = []

    def _kept(self, resume_step: int | None) -> dict:
        files.cut_jsonl(self._path, resume_step)
        rows = files.read_jsonl(self._path) if self._path.exists() else []
        return next((row for row in rows if row["step"] == resume_step), {"count": 0, "sums": {}})
