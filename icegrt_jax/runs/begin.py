"""How a stage begins: its inputs looked at, its batches and the stages before it checked, the run's folder opened."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable

from icegrt_jax.config.options import Options
from icegrt_jax.hosts import sync
from icegrt_jax.runs import batch_check, history, inputs, notes, own_code, provenance, rundir
from icegrt_jax.runs.stage import Stage


def program(stage: Stage) -> Callable[[Options, pathlib.Path], None]:
    """`main` of the stage's command: the stage by itself."""
    return functools.partial(carry_out, stage, alone=True)


def carry_out(stage: Stage, config: Options, workdir: pathlib.Path, *, alone: bool = False) -> None:
    """Does what of a stage is not done yet, once all is checked that would keep it from its first step.

    Args:
      alone: its sources have not been looked at together with those of other stages.
    """
    if alone:
        notes.warn(stage.name, inputs.check(config, workdir, stage))
        notes.warn(stage.name, provenance.check(workdir, config.data_dir, [stage.name]))
    stage.check_config(config)
    if not stage.is_due(config):
        return
    sections = batch_check.of_batches({stage.name: getattr(config, stage.name, None)})
    batch_check.check_batches(config.mesh, sections, workdir)
    rundir.require(workdir, stage.name, *stage.needs(config))
    run = rundir.start(config, config.lengths, config.mesh, workdir, compile_cache=config.log.compile_cache)
    if rundir.finished(run, stage.name):
        if sync.is_main():
            print(f"{stage.name}: finished, skipped", flush=True)
    else:
        readings = stage.readings(config, run.tokenizer, run.tokenizer) if stage.readings else ()
        annotator = config.annotation.by if config.rounds > 1 else ""
        code = own_code.names(config.domain, config.reward, config.ppo, config.evaluate, annotator)
        run = dataclasses.replace(run, readings=tuple(readings), own_code=code)
        measured = stage.steps(config) or stage.only_measures
        with history.recorded(run.folder(stage.name)) if measured else contextlib.nullcontext():
            stage.train(run, config)
    stage.after(run, config)
