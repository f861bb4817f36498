"""The one training loop: resume, step, log, save, stop politely. A stage says what a step of it is.

    loop   what a step needs from the host is made in a thread while the device works on the step before
           advance (the stage's own), a row of metrics, the watchers
           a checkpoint every `save_every` steps, at the last one and when asked to stop

A step that has begun is finished and saved, whatever signal comes, or left before it has changed anything. While
updates are skipped as not finite, nothing is saved: see `skips`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from icegrt_jax import sums
from icegrt_jax.config.options import LogOptions
from icegrt_jax.data.pipeline import Batches
from icegrt_jax.data.prefetch import Ahead
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import heap, sync
from icegrt_jax.models.vocabulary import check_ids
from icegrt_jax.runs import not_finite
from icegrt_jax.runs.notes import write_compiles
from icegrt_jax.runs.rows import Means, Phases, Single
from icegrt_jax.runs.rundir import Run
from icegrt_jax.runs.session import Session
from icegrt_jax.runs.skips import Skips
from icegrt_jax.sharding import host_rows
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.sharding.steps import jit_step
from icegrt_jax.training.checkpoints import Checkpoints, abstract_like
from icegrt_jax.training.finite import TrainingError
from icegrt_jax.training.metrics import MetricsWriter, Writer, Writers
from icegrt_jax.training.preemption import Preempted, Preemption
from icegrt_jax.training.progress import Progress
from icegrt_jax.training.state import TrainState, trained, with_trained


class Unlearned(UserError):
    """Raised by `advance` while the state is still the one it was given: that is saved, the step comes again."""


class Left(Unlearned):
    """The run is to stop, and need not wait for the rest of the step."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a step has come to.

    Attributes:
      state: after it.
      metrics: f32[] each, or f32[N] where every step has a row; on the device or the host.
      more: what else the stage's own watchers look at, such as the texts of a rollout.
      tokens: trained on, of all processes, where the loop counts them.
    """

    state: TrainState
    metrics: dict[str, Any]
    more: Any = None
    tokens: float = 0.0


Write = Callable[[dict[str, Any]], None]
Advance = Callable[[TrainState, int, Callable[[int], Any], Progress], Outcome]


class Watcher(Protocol):
    """Looks on while a stage trains: writes samples, measures the model on other data, keeps the best, ends the stage.

    All processes call it, at the same steps.
    """

    def begin(self, step: int | None) -> bool:
        """Before the first step, with that of the checkpoint the run goes on from (None: a new run).

        What it has written of later steps is to go; they come again.

        Returns:
          Whether it had ended the stage at that step.
        """

    def after(self, step: int, outcome: Outcome, write: Write) -> bool:
        """After a step, before the state may be saved and is given to the next step, which takes its buffers.

        Args:
          write: writes numbers as a row of their own at this step.

        Returns:
          Whether the stage ends with this step.
        """


@dataclasses.dataclass(frozen=True)
class Loop:
    """What is a stage's own.

    Attributes:
      stage: its name, and its folder's.
      steps: the last step.
      make: the host's part of a step, a function of the step alone, such as its batch.
      advance: (state, step, made, progress) -> outcome; `made(step)` gives what `make` made.
      save_every: steps to a checkpoint.
      shown: the metrics that the progress line names.
      row_every: steps to a row of metrics, which has their means and is read while the next step runs; 0: every step
        has a row of its own, refused if it is not finite before anything is saved.
      waits: the phase in which the metrics are waited for.
      unit: what a step is called.
      last_alone: the last checkpoint takes the place of all before it.
      skipped: updates in a row that may not be finite.
      keep: of `Outcome.more` what is kept of a step that was not, see `not_finite`; None: what was made for it.
      watchers: see `Watcher`, called in this order.
      writers: of rows of metrics, each made with the stage's folder and the step the run goes on from.
    """

    stage: str
    steps: int
    make: Callable[[int], Any]
    advance: Advance
    save_every: int
    shown: tuple[str, ...]
    row_every: int = 0
    waits: str = "update"
    unit: str = "update"
    last_alone: bool = False
    skipped: int = LogOptions.skipped
    keep: Callable[[Any], tuple[Any, Sequence[dict]]] | None = None
    watchers: Sequence[Watcher] = ()
    writers: Sequence[Callable[..., Writer]] = (MetricsWriter,)


def resumed(run: Run, stage: str, state: TrainState) -> tuple[TrainState, int | None]:
    """The state of the latest checkpoint and its step; without one (None) the state as it is, where it will stay.

    Apart from `train`, so that a program which goes on does not hold two states: it would still have the one it gave.
    """
    state = shard_tree(state, run.mesh)  # new leaves too: a checkpoint is restored to where they are
    with Checkpoints(run.folder(stage) / "checkpoints") as checkpoints:
        found = checkpoints.newest(abstract_like(trained(state)))
    return (state, None) if found is None else (with_trained(state, found[0]), found[1])


def train(run: Run, loop: Loop, state: TrainState, start: int | None) -> tuple[TrainState, int]:
    """Advances what `resumed` gave to the last step.

    Returns:
      The last state, saved for later stages, and its step: fewer than `loop.steps` where a watcher has ended the stage.
    """
    folder = run.folder(loop.stage)
    with Preemption() as preemption, Checkpoints(folder / "checkpoints") as checkpoints:
        ended = any([watcher.begin(start) for watcher in loop.watchers]) and start is not None
        sync.barrier(f"{loop.stage} begins")
        if start and sync.is_main():
            print(f"{loop.stage}: going on from {loop.unit} {start}", flush=True)
        with contextlib.ExitStack() as open_:
            writer = open_.enter_context(Writers(make(folder, resume_step=start) for make in loop.writers))
            progress = open_.enter_context(Progress(loop.steps, loop.stage, start=start or 0, workdir=folder.parent))
            made = open_.enter_context(Ahead(loop.make, stop=loop.steps + 1))
            skips = Skips(loop.stage, loop.skipped, checkpoints.left)
            rows = _rows(loop, folder, start, checkpoints, writer, progress, skips)
            phases = Phases(progress, loop.row_every or 1)
            step = begun = start or 0
            due = False  # a checkpoint, put off
            seen: tuple[int, Any] | None = None  # the last step, and what it has come to
            if not ended:
                progress.begin()
            steps = iter(()) if ended else walked(loop, state, begun, made, rows, writer, progress)
            try:
                for step, outcome, last in steps:
                    phases.after(step, functools.partial(writer.write, step))
                    state, stopping, seen = outcome.state, preemption.reached(step), (step, outcome.more)
                    if last or stopping or due or step % loop.save_every == 0:
                        with progress.phase(loop.waits):
                            rows.settle(step, last=last)
                        writer.flush()
                        due = bool(skips.in_a_row) and not last
                        if not due:
                            _save(run, loop, step, state, checkpoints, progress, last=last)
                    if stopping:
                        checkpoints.wait()
                        raise Preempted(checkpoints.latest() if due else step, preemption.signum)
            except TrainingError as error:
                error.outcome = error.outcome or seen  # of a state that was not saved it is the last step
                raise not_finite.explained(error, folder, loop.make, loop.keep) from error
            except Unlearned as error:
                if step > (checkpoints.latest() or 0) and not skips.in_a_row:
                    rows.settle(step, last=False)
                    writer.flush()
                    _save(run, loop, step, state, checkpoints, progress, last=False)
                if not isinstance(error, Left):
                    raise
                checkpoints.wait()
                raise Preempted(checkpoints.latest(), preemption.signum) from None
    heap.give_back()
    return state, step


def walked(
    loop: Loop,
    state: TrainState,
    start: int,
    made: Callable[[int], Any],
    rows: Means | Single,
    writer: Writers,
    progress: Progress,
) -> Iterator[tuple[int, Outcome, bool]]:
    """The steps after `start`: each with what it has come to, and whether it is the last one.

    The state that is given, and that of each outcome, is taken by the step that follows.
    """
    step, last = start, start >= loop.steps
    while not last:
        step += 1
        outcome = loop.advance(state, step, made, progress)
        state = outcome.state
        with progress.phase(loop.waits):
            try:
                rows.add(step, outcome.metrics)
            except TrainingError as error:
                error.outcome = step, outcome.more
                raise
        write = functools.partial(writer.write, step)
        ended = any([watcher.after(step, outcome, write) for watcher in loop.watchers])
        last = ended or step == loop.steps
        yield step, outcome, last


def _rows(
    loop: Loop, folder, start: int | None, checkpoints: Checkpoints, writer: Writers, progress: Progress, skips: Skips
) -> Means | Single:
    more: dict[str, Any] = {"left": checkpoints.left, "skips": skips}
    if loop.row_every:
        return Means(folder, start, writer, progress, loop.shown, every=loop.row_every, **more)
    return Single(writer, progress, loop.shown, **more)


def _save(
    run: Run, loop: Loop, step: int, state: TrainState, checkpoints: Checkpoints, progress: Progress, *, last: bool
) -> None:
    """The checkpoint of a step; the last one is what later stages read."""
    if last:
        write_compiles(run, loop.stage, progress.compiles)
    with progress.phase("save"):
        if sync.is_main():
            sums.settle(run.folder(loop.stage))
        if not (last and loop.last_alone):
            checkpoints.save(step, trained(state))
            return
        checkpoints.wait()
        with Checkpoints(run.folder(loop.stage) / "checkpoints", keep=1) as only:
            only.save(step, shard_tree(trained(state), run.mesh))


def train_on_batches(
    run: Run,
    stage: str,
    steps: int,
    log: LogOptions,
    state: TrainState,
    update,
    batches: Batches,
    *,
    shown: tuple[str, ...],
    watchers: Sequence[Watcher] = (),
    writers: Sequence[Callable[..., Writer]] = (MetricsWriter,),
) -> tuple[TrainState, int]:
    """`train` of a supervised stage: applies `update` to batch 0, 1, … steps - 1."""
    state, start = resumed(run, stage, state)
    loop = over_batches(
        run, stage, steps, state, update, batches,
        save_every=log.checkpoint_every, shown=shown, row_every=log.every, last_alone=True, skipped=log.skipped,
        watchers=watchers, writers=writers,
    )  # fmt: skip
    return train(run, loop, state, start)


def over_batches(
    run: Session, stage: str, steps: int, state: TrainState, update, batches: Batches, **more: Any
) -> Loop:
    """The loop that applies `update` to batch 0, 1, … steps - 1; `more` is what else a loop is given."""
    vocabulary = min(model.vocab_size for _, model in state.models)
    update = jit_step(update, run.mesh, state)

    def advance(state: TrainState, step: int, made: Callable[[int], Any], progress: Progress) -> Outcome:
        with progress.phase("data"):
            rows = made(step)
            check_ids(rows["tokens"], vocabulary, f"{stage}, batch {step}")
            batch = host_rows.place_rows(rows, run.mesh)
        with progress.phase("update"):
            # Of all processes as many as of this one.
            tokens = jax.process_count() * np.count_nonzero(rows["segment_ids" if "segment_ids" in rows else "mask"])
            state, metrics = update(state, batch)
            return Outcome(state, metrics, tokens=tokens)

    return Loop(stage, steps, lambda step: batches[step - 1], advance, **more)
