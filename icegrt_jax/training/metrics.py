"""Metrics of a stage, in `metrics.jsonl` and in TensorBoard's event files.

`metrics.jsonl` has one JSON object per write: `{"step": 12, "loss": 0.31, ...}`,
scalars only, and of them those that a repeated run would write again; speed and
learning rate are in `times.jsonl`. JSON has no NaN or infinity: a value that is not
finite is null in the file and NaN when read back. Arrays go to TensorBoard and to
`histograms.jsonl`, as counts, and texts to TensorBoard as texts.
"""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any, Protocol

import jax
import numpy as np
import tensorboardX

from icegrt_jax import files
from icegrt_jax.training import times
from icegrt_jax.training.event_names import tag

# Groups that metrics.jsonl does not keep: the config tells them, or another run of the same would differ in them.
EVENTS_ONLY = ("optimizer/", "time/", "evaluate/")
TIMED = ("optimizer/", "time/")  # of them those that times.jsonl keeps
HISTOGRAMS = "histograms.jsonl"
BINS = 24


class Writer(Protocol):
    """Something that keeps or sends rows of metrics, such as an experiment tracker.

    Made with the stage's folder and `resume_step`, the step of the checkpoint the run goes on from (None: a new run):
    rows after it come again. Every process has one; which of them does something is its own affair.
    """

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """One row; of several rows of a step each has its own names."""

    def flush(self) -> None:
        """Called before a checkpoint is saved: what was written is kept, whatever happens afterwards."""

    def close(self) -> None:
        """Called at the end, also of a loop that was stopped or has failed."""


class Writers:
    """Several writers as one, closed at the end of the `with`."""

    def __init__(self, writers: Iterable[Writer]):
        with contextlib.ExitStack() as made:  # those before one that cannot be made are closed
            self._writers = [made.enter_context(contextlib.closing(writer)) for writer in writers]
            self._open = made.pop_all()

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        for writer in self._writers:
            writer.write(step, metrics)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *exc_info) -> None:
        self._open.close()


class MetricsWriter:
    """Appends metrics to a stage's folder; on all processes but the first it does nothing.

    Args:
      directory: the stage's folder.
      resume_step: the step of the checkpoint the run goes on from, None for a new run. Rows
        after it are cut: the finished file equals that of a run that was never stopped.
    """

    def __init__(self, directory: str | os.PathLike, *, resume_step: int | None):
        self._path = pathlib.Path(directory) / "metrics.jsonl"
        self._events = None
        if jax.process_index() == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for path in (self._path, self._path.with_name(HISTOGRAMS)):
                files.cut_jsonl(path, resume_step)
            self._events = self._new_run() if resume_step is None else self._continued_run(resume_step)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Writes one row.

        Args:
          step: the step the metrics are of.
          metrics: name to number, `f32[]` or `f32[N]` (a histogram), in host or device memory, or to a
            text in Markdown; device arrays are fetched together, waiting for them.
        """
        if self._events is None:
            return
        for name in [name for name, value in metrics.items() if isinstance(value, str)]:
            self._events.add_text(tag(name), metrics[name], step)
        metrics = {name: value for name, value in metrics.items() if not isinstance(value, str)}
        row, histograms, fetched = {}, {}, jax.device_get(metrics)
        for name in metrics:  # in the caller's order; device_get sorts
            value = np.asarray(fetched[name])
            if value.ndim > 0:
                if counted := self._write_histogram(step, name, value.astype(np.float64).ravel()):
                    histograms[name] = counted
                continue
            row[name] = _plain(value)
            if row[name] is not None:
                self._events.add_scalar(tag(name), row[name], step)
        if timed := {name: value for name, value in row.items() if name.startswith(TIMED)}:
            times.append(self._path.parent, {"step": int(step)} | timed)
        row = {name: value for name, value in row.items() if not name.startswith(EVENTS_ONLY)}
        if row:
            files.append_jsonl(self._path, [{"step": int(step)} | row])
        if histograms:
            files.append_jsonl(self._path.with_name(HISTOGRAMS), [{"step": int(step)} | histograms])

    def flush(self) -> None:
        """Puts TensorBoard's events on disk; call it before a checkpoint is saved."""
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def _new_run(self) -> tensorboardX.SummaryWriter:
        for stale in self._path.parent.glob("events.out.tfevents.*"):
            stale.unlink()
        return tensorboardX.SummaryWriter(str(self._path.parent), flush_secs=30)

    def _continued_run(self, step: int) -> tensorboardX.SummaryWriter:
        # Files are named after the second they are made in: the suffix keeps two runs apart.
        return tensorboardX.SummaryWriter(
            str(self._path.parent), purge_step=step + 1, filename_suffix=f".from_{step}", flush_secs=30
        )

    def _write_histogram(self, step: int, name: str, values: np.ndarray) -> dict[str, Any]:
        """Gives it to TensorBoard; returns its counts for the file, nothing of no number."""
        values = values[np.isfinite(values)]  # bins cannot hold the others
        if not values.size or self._events is None:
            return {}
        self._events.add_histogram(tag(name), values, step)
        counts, edges = np.histogram(values, BINS)
        return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Returns the rows of a `metrics.jsonl`, null as NaN, without a half-written last line."""
    rows = files.read_jsonl(path)
    return [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]


def plain_row(metrics: dict[str, Any]) -> dict[str, int | float | None]:
    """The scalars among some metrics, f32[] or numbers, as `metrics.jsonl` has them."""
    fetched = {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
    return {name: _plain(fetched[name]) for name in metrics if not fetched[name].ndim}


def _plain(value: np.ndarray) -> int | float | None:
    """Returns a scalar as JSON has it; a float32 with its own few digits, not float64's."""
    if value.dtype.kind in "biu":
        return int(value)
    if not np.isfinite(value):
        return None
    # Read back and rounded to float32, the shortest text gives the same bits.
    return float(value) if value.dtype == np.float64 else float(str(value.astype(np.float32)))
