"""Seeing quality while a stage trains: numbers of held-out data, the best checkpoint by one of them, an early end."""

import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from icegrt_jax import files
from icegrt_jax.config.best import metric_of
from icegrt_jax.config.options import HeldoutOptions
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.runs import loop
from icegrt_jax.runs.rundir import Run
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.checkpoints import Checkpoints, abstract_like
from icegrt_jax.training.finite import check_finite
from icegrt_jax.training.restore import BEST
from icegrt_jax.training.state import TrainState, trained

Steps = int | Callable[[], int]  # the last step, which may be another one once more is known
Measure = Callable[[TrainState], Mapping[str, Any]]
Seen = Callable[[TrainState], TrainState]


class Heldout:
    """Measures every so many steps and after the last; the numbers are rows of the metrics, and of heldout.jsonl.

    That file says after a stop what was best and how long ago: the rest goes as if there had been none.

    Args:
      section: of the stage. steps: its last one.
      measure: the numbers of a state, their names without their group; texts go to the writers alone.
      seen: what of a state is measured and kept, its parameters being others where a stage leaves an average.
    """

    def __init__(
        self, run: Run, stage: str, section: HeldoutOptions, steps: Steps, measure: Measure, seen: Seen = lambda x: x
    ):
        self._seen = seen
        self._run, self._stage, self._section, self._measure = run, stage, section, measure
        self._last = steps if callable(steps) else lambda: steps
        self._metric, self._sign = metric_of(f"{stage}.best", section.best) if section.best else ("", 0)
        self._rows: list[dict[str, Any]] = []
        self._best: dict[str, Any] | None = None

    @property
    def _folder(self) -> pathlib.Path:
        return self._run.folder(self._stage)

    def begin(self, step: int | None) -> bool:
        self._rows = sync.from_main(f"{self._stage}: held-out results are looked for", lambda: self._kept(step))
        self._best = None
        for row in self._rows:
            self._look_at(row)
        with Checkpoints(self._folder / BEST) as kept:
            steps = kept.steps()
        stale = [kept for kept in steps if self._best is None or kept != self._best["step"]]
        if sync.is_main():
            for old in stale:
                shutil.rmtree(self._folder / BEST / str(old))
        sync.barrier(f"{self._stage}: the best checkpoint is found")
        if self._best is not None and self._best["step"] not in steps:
            self._best = None  # a better one that comes again had taken its place
        return bool(self._rows) and self._rows[-1]["step"] == step and self._ends()

    def after(self, step: int, outcome: loop.Outcome, write: loop.Write) -> bool:
        if step % self._section.heldout_every and step != self._last():
            return False
        state = self._seen(outcome.state)
        measured = {f"heldout/{name}": value for name, value in self._measure(state).items()}
        write(measured)
        row = {"step": step, **{name: float(x) for name, x in measured.items() if not isinstance(x, str)}}
        check_finite(step, row)  # would count as the best of all
        if self._metric and self._metric not in row:
            names = ", ".join(name for name in row if name != "step")
            raise UserError(f"{self._stage}.best={self._section.best!r}: measured are {names}; name one of them.")
        if self._look_at(row):
            with Checkpoints(self._folder / BEST, keep=1) as kept:
                kept.save(step, {"params": shard_tree(trained(state).params, self._run.mesh)})
        self._rows.append(row)
        if sync.is_main():
            files.append_jsonl(self._folder / "heldout.jsonl", [row])
            shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
            print(f"{self._stage}: step {step}: {shown}", flush=True)
        if self._best is None or not self._ends():
            return False
        if sync.is_main() and step < self._last():
            print(
                f"{self._stage}: ends at step {step}: {self._metric} has not been better in "
                f"{self._section.patience} measurements than at step {self._best['step']}",
                flush=True,
            )
        return True

    def info(self) -> dict[str, Any]:
        """What `done.json` says: the best checkpoint, and which one later stages take."""
        if self._best is None:
            return {}
        best = {"step": self._best["step"], "metric": self._metric, "value": self._best[self._metric]}
        return {"best": best, "use": self._section.use}

    def best(self, state: TrainState) -> TrainState:
        """The state with the parameters of the best checkpoint."""
        assert self._best is not None, "asked only where info() tells of one"
        abstract = abstract_like(shard_tree(trained(state).params, self._run.mesh))
        with Checkpoints(self._folder / BEST) as kept:
            restored = kept.restore({"params": abstract}, self._best["step"])
        return state.replace(params={**state.params, **restored["params"]})

    def _kept(self, step: int | None) -> list[dict[str, Any]]:
        path = self._folder / "heldout.jsonl"
        files.cut_jsonl(path, step)
        return files.read_jsonl(path) if path.exists() else []

    def _look_at(self, row: dict[str, Any]) -> bool:
        """Whether the row is the best so far, which it is from then on."""
        if not self._metric or (
            self._best is not None and self._sign * row[self._metric] <= self._sign * self._best[self._metric]
        ):
            return False
        self._best = row
        return True

    def _ends(self) -> bool:
        """Whether the last measurements have all not been better than the best one."""
        if not self._section.patience or self._best is None:
            return False
        return sum(row["step"] > self._best["step"] for row in self._rows) >= self._section.patience


def watch(
    run: Run, stage: str, section: HeldoutOptions, steps: Steps, make: Callable[[], Measure], seen: Seen = lambda x: x
) -> tuple[Heldout | None, tuple[Heldout, ...]]:
    """The watcher, None where nothing is to be measured, and the same as a tuple; `make` gives what measures."""
    if not section.heldout_every or not section.heldout:
        return None, ()
    watcher = Heldout(run, stage, section, steps, make(), seen)
    return watcher, (watcher,)
