"""How a stage begins: its inputs looked at, its batches and the stages before it checked, the run's folder opened."""

import functools
import pathlib
from collections.abc import Callable

from icegrt_jax.config.options import Options
from icegrt_jax.runs import batch_check, inputs, notes, rundir
from icegrt_jax.runs.stage import Stage


def alone(stage: Stage, config: Options, workdir: pathlib.Path) -> None:
    """The stage by itself, as `icegrt STAGE` runs it: its inputs are checked first."""
    notes.warn(stage.name, inputs.check(config, workdir, stage))
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
    return None if rundir.finished(run, stage.name) else run
