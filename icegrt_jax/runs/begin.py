"""How a stage begins: its inputs looked at, its batches and the stages before it checked, the run's folder opened."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable

from icegrt_jax.config.options import Options
from icegrt_jax.hosts import sync
from icegrt_jax.runs import batch_check, inputs, notes, provenance, rundir
from icegrt_jax.runs.stage import Reading, Stage


def alone(stage: Stage, config: Options, workdir: pathlib.Path) -> None:
    """The stage by itself, as `icegrt STAGE` runs it: its inputs are checked first."""
    notes.warn(stage.name, inputs.check(config, workdir, stage))
    notes.warn(stage.name, provenance.check(workdir, config.data_dir, [stage.name]))
    stage.train(config, workdir)


def program(stage: Stage) -> Callable[[Options, pathlib.Path], None]:
    """`main` of the stage's command."""
    return functools.partial(alone, stage)


def begin(stage: Stage, config: Options, workdir: pathlib.Path) -> rundir.Run | None:
    """The run, once all is checked that would keep the stage from its first step; None where it has finished."""
    sections = batch_check.of_batches({stage.name: getattr(config, stage.name, None)})
    batch_check.check_batches(config.mesh, sections, workdir)
    rundir.require(workdir, stage.name, *stage.needs(config))
    run = rundir.start(config, workdir)
    if rundir.finished(run, stage.name):
        say_skipped(stage.name)
        return None
    return reading(run, stage.readings(config, run.tokenizer, run.tokenizer))


def reading(run: rundir.Run, readings: Iterable[Reading]) -> rundir.Run:
    """The run as a stage sees it that reads these sources."""
    return dataclasses.replace(run, readings=tuple(readings))


def say_skipped(stage: str) -> None:
    """Says that a stage is not run again."""
    if sync.is_main():
        print(f"{stage}: finished, skipped", flush=True)
