"""The loop of the supervised stages: resume, step, log, save, stop politely."""

import functools

from ml_collections import ConfigDict

from icegrt_jax.data.pipeline import Batches
from icegrt_jax.data.prefetch import Ahead
from icegrt_jax.hosts import heap, sync
from icegrt_jax.models.vocabulary import check_ids
from icegrt_jax.runs.notes import write_compiles
from icegrt_jax.runs.rundir import Run
from icegrt_jax.sharding import host_rows
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.sharding.steps import jit_step
from icegrt_jax.training.checkpoints import Checkpoints, abstract_like
from icegrt_jax.training.finite import check_finite
from icegrt_jax.training.metrics import MetricsWriter
from icegrt_jax.training.preemption import Preempted, Preemption
from icegrt_jax.training.progress import Progress
from icegrt_jax.training.state import TrainState, trained, with_trained
from icegrt_jax.training.window import Window


def train(run: Run, stage: str, state: TrainState, update, batches: Batches, *, shown: tuple[str, ...]) -> TrainState:
    """Applies `update` to batch 0, 1, … until `config[stage].steps`, from the latest checkpoint on.

    A row of metrics has the means over the steps since the row before; they are read while the next step runs. The
    last state is returned and saved, for later stages.
    """
    config: ConfigDict = run.config
    steps, every, save_every = config[stage].steps, config.log.every, config.log.checkpoint_every
    folder, vocabulary = run.folder(stage), min(model.vocab_size for _, model in state.models)
    state = shard_tree(state, run.mesh)  # new leaves too: a checkpoint is restored to where they are
    with Preemption() as preemption, Checkpoints(folder / "checkpoints") as checkpoints:
        start = checkpoints.latest()
        if start is not None:
            state = with_trained(state, checkpoints.restore(abstract_like(trained(state)), start))
        update = jit_step(update, run.mesh, state)
        first = start or 0
        window = Window(folder, resume_step=start, check=functools.partial(check_finite, left=checkpoints.left))
        log = functools.partial(_log, window=window, shown=shown)
        sync.barrier(f"{stage} begins")
        with (
            MetricsWriter(folder, resume_step=start) as writer,
            Progress(steps, stage, start=first) as progress,
            Ahead(lambda step: batches[step - 1], stop=steps + 1) as batch_of,
        ):
            pending = None
            for step in range(first + 1, steps + 1):
                with progress.phase("data"):
                    rows = batch_of(step)
                    check_ids(rows["tokens"], vocabulary, f"{stage}, batch {step}")
                    batch = host_rows.place_rows(rows, run.mesh)
                with progress.phase("update"):
                    state, metrics = update(state, batch)
                    if pending:
                        log(writer, progress, *pending, every=every)
                pending = (step, metrics)
                last = step == steps
                stopping = preemption.reached(step)
                if last or stopping or step % save_every == 0:
                    log(writer, progress, *pending, every=1 if last else every)
                    pending = None
                    writer.flush()
                    if last:
                        write_compiles(run, stage, progress.compiles)
                        checkpoints.wait()
                        _save_last(run, stage, step, state)
                    else:
                        window.save(step)
                        checkpoints.save(step, trained(state))
                if stopping:
                    checkpoints.wait()
                    raise Preempted(step, preemption.signum)
    heap.give_back()
    return state


def _log(
    writer: MetricsWriter, progress: Progress, step: int, metrics: dict, *, window: Window, every: int, shown
) -> None:
    window.add(step, metrics)
    if step % every and step != 1:
        progress.update(step)
        return
    means = window.means()
    writer.write(step, means)
    progress.update(step, {name: means[name] for name in shown})


def _save_last(run: Run, stage: str, step: int, state: TrainState) -> None:
    """The checkpoint that later stages read; those before it go."""
    with Checkpoints(run.folder(stage) / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(step, shard_tree(trained(state), run.mesh))
