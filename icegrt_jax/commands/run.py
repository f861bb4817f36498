"""`icegrt run`: every stage in order. A finished stage is skipped, an unfinished one continues.

With `rounds` above 1 the stages from the reward model to PPO are gone through so often, and between two rounds
answers of the policy are ranked.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from icegrt_jax import commands
from icegrt_jax.config.convert import to_config
from icegrt_jax.config.options import Options
from icegrt_jax.config.reruns import REPEATED
from icegrt_jax.hosts import sync
from icegrt_jax.runs import annotation, batch_check, begin, inputs, notes, provenance, rounds, rundir
from icegrt_jax.runs.reward_model import Asked
from icegrt_jax.runs.stage import Stage
from icegrt_jax.training.preemption import stop_if_asked
from icegrt_jax.training.progress import print_header


@dataclasses.dataclass(frozen=True)
class Step:
    """A part of the run, and what is printed above it."""

    name: str
    purpose: str
    do: Callable[[], None]


def main(config: Options, workdir: pathlib.Path) -> None:
    """Runs the stages that are not finished yet."""
    began, workdir = time.perf_counter(), pathlib.Path(workdir)
    stages = [(command.get("STAGE"), command.in_run) for command in commands.in_run()]
    for stage, _ in stages:
        stage.check_config(config)
    training = {stage.name: getattr(config, stage.name) for stage, _ in stages if stage.steps(config)}
    batch_check.check_batches(config.mesh, batch_check.of_batches(training), workdir)
    # Each stage would say the same of its own inputs, hours later.
    notes.warn("run", inputs.check(config, workdir, *(stage for stage, _ in stages)))
    notes.warn("run", provenance.check(workdir, config.data_dir, [stage.name for stage, _ in stages]))
    due = [(stage, purpose) for stage, purpose in stages if stage.is_due(config)]
    steps = _steps(due, lambda number: dataclasses.replace(config, rounds=number), config.rounds, workdir)
    for number, step in enumerate(steps, start=1):
        print_header(step.name, step.purpose, number=number, total=len(steps))
        step.do()
        sync.barrier(f"{step.name} ends")
        stop_if_asked()
    minutes, seconds = divmod(round(time.perf_counter() - began), 60)
    print(f"finished in {minutes} min {seconds} s; open {workdir / 'report' / 'index.html'}")


def _steps(
    stages: Sequence[tuple[Stage, str]], of_round: Callable[[int], Any], count: int, workdir: pathlib.Path
) -> list[Step]:
    """All that is to be done, in order.

    Args:
      of_round: the options of a run that ends with a round.
      count: of rounds.
    """
    whole, names = of_round(count), [stage.name for stage, _ in stages]
    carry_out = functools.partial(begin.carry_out, config=whole, workdir=workdir)
    plain = [Step(stage.name, purpose, functools.partial(carry_out, stage)) for stage, purpose in stages]
    if count == 1:
        return plain
    first, last = names.index(REPEATED[0]), names.index(REPEATED[1]) + 1
    steps = plain[:first]
    for number in range(1, count + 1):
        options, folder = of_round(number), rounds.folder_of(workdir, number, count)
        for stage, purpose in stages[first:last]:
            do = functools.partial(_in_round, stage, options, folder, workdir, number, count, names[:first])
            steps.append(Step(stage.name, f"round {number} of {count}: {purpose}", do))
        if number < count:
            what = f"round {number + 1} of {count}: answers of the policy ranked, by {whole.annotation.by}"
            steps.append(Step("annotate", what, functools.partial(_annotate, options, folder, number + 1)))
    return [*steps, *plain[last:]]


def _in_round(
    stage: Stage, options: Any, folder: pathlib.Path, workdir: pathlib.Path, number: int, count: int, earlier: list[str]
) -> None:
    """A stage of a round in its folder; `options` are the round's."""
    if number < count:
        rounds.open_folder(workdir, number, earlier, to_config(options))
        notes.warn(f"round {number}", provenance.check(folder, options.data_dir, [stage.name]))
    begin.carry_out(stage, options, folder)


def _annotate(options: Any, folder: pathlib.Path, number: int) -> None:
    """Answers of the policy in `folder`, of the round whose options these are, ranked for the next one."""
    section, cache = options.annotation, options.log.compile_cache
    run = rundir.start(options, options.lengths, options.mesh, folder, compile_cache=cache)
    like = Asked([], options.ppo, options.evaluate.batch_size)
    annotation.rank_answers(run, section, number, options.domain, like)
    annotation.count(run, options.reward, number, section.by)
