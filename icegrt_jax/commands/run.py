"""`icegrt run`: every stage in order. A finished stage is skipped, an unfinished one continues.

With `rounds` above 1 the stages from the reward model to PPO are gone through so often, and between two rounds
answers of the policy are ranked.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence

import jax

from icegrt_jax import commands, files
from icegrt_jax.config.convert import to_config
from icegrt_jax.config.options import Options
from icegrt_jax.config.reruns import REPEATED
from icegrt_jax.config.rounds import PEOPLE
from icegrt_jax.domains import load as load_domain
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.report.words import duration
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


def main(config: Options, workdir: pathlib.Path, *, rank: bool = False, host: str = "", port: int = 0) -> None:
    """Runs the stages that are not finished yet.

    Args:
      rank: where people rank between two rounds, show them a page and wait; it is at host and port.
    """
    began, workdir = time.perf_counter(), pathlib.Path(workdir)
    wait = _by_people(config.rounds, config.annotation.by, config.domain, host, port) if rank else None
    stages = [(command.get("STAGE"), command.in_run) for command in commands.in_run()]
    for stage, _ in stages:
        stage.check_config(config)
    training = {stage.name: getattr(config, stage.name) for stage, _ in stages if stage.steps(config)}
    batch_check.check_batches(config.mesh, batch_check.of_batches(training), workdir)
    # Each stage would say the same of its own inputs, hours later.
    notes.warn("run", inputs.check(config, workdir, *(stage for stage, _ in stages)))
    notes.warn("run", provenance.check(workdir, config.data_dir, [stage.name for stage, _ in stages]))
    due = [(stage, purpose) for stage, purpose in stages if stage.is_due(config)]
    steps = _steps(due, config, workdir, wait)
    for number, step in enumerate(steps, start=1):
        print_header(step.name, step.purpose, number=number, total=len(steps))
        step.do()
        sync.barrier(f"{step.name} ends")
        stop_if_asked()
    print(f"finished in {duration(time.perf_counter() - began)}; open {workdir / 'report' / 'index.html'}")


def _steps(
    stages: Sequence[tuple[Stage, str]], config: Options, workdir: pathlib.Path, wait: annotation.Wait | None
) -> list[Step]:
    """All that is to be done, in order."""
    names, count = [stage.name for stage, _ in stages], config.rounds
    plain = [
        Step(stage.name, purpose, functools.partial(begin.carry_out, stage, config, workdir))
        for stage, purpose in stages
    ]
    if count == 1:
        return plain
    first, last = names.index(REPEATED[0]), names.index(REPEATED[1]) + 1
    # Of a round the options are those of a run that ends with it.
    of_round = lambda number: dataclasses.replace(config, rounds=number)
    folder_of = functools.partial(rounds.folder_of, workdir, rounds=count)

    def carry_out(stage: Stage, number: int) -> None:
        if number < count:
            rounds.open_folder(workdir, number, names[:first], to_config(of_round(number)))
            notes.warn(f"round {number}", provenance.check(folder_of(number), config.data_dir, [stage.name]))
        begin.carry_out(stage, of_round(number), folder_of(number))

    def annotate(number: int) -> None:
        """For the round after this one, of answers of the policy that this one has left."""
        options = of_round(number)
        run = rundir.start(
            options, options.lengths, options.mesh, folder_of(number), compile_cache=config.log.compile_cache
        )
        like = Asked([], config.ppo, config.evaluate.batch_size)
        annotation.rank_answers(run, config.annotation, number + 1, config.domain, like, wait)
        annotation.count(run, config.reward, number + 1, config.annotation.by)

    steps = plain[:first]
    for number in range(1, count + 1):
        for stage, purpose in stages[first:last]:
            what = f"round {number} of {count}: {purpose}"
            steps.append(Step(stage.name, what, functools.partial(carry_out, stage, number)))
        if number < count:
            what = f"round {number + 1} of {count}: answers of the policy ranked, by {config.annotation.by}"
            steps.append(Step("annotate", what, functools.partial(annotate, number)))
    return [*steps, *plain[last:]]


def _by_people(rounds: int, by: str, domain: str, host: str, port: int) -> annotation.Wait:
    """Shows answers on a page until every prompt has been ranked by somebody or skipped."""
    if rounds == 1 or by != PEOPLE:
        raise UserError(
            f"--rank, but rounds={rounds} and annotation.by={by!r}: nobody will be waited "
            f"for; set rounds above 1 and annotation.by={PEOPLE!r}, or leave out --rank."
        )
    if jax.process_count() > 1:
        raise UserError(
            "--rank shows a page in one process; with several run the same command without it, and then the `icegrt "
            "rank` that it names."
        )
    from icegrt_jax.pages.rank import service  # of the extra `rank`

    def wait(asked: pathlib.Path, ranked: pathlib.Path) -> None:
        folder = ranked.with_suffix("")
        store = service.fill(folder, str(asked))
        if domain:
            store["guideline"] = load_domain(domain).domain.guideline
        service.serve(folder, store, service.Place(host, port), service.Rules(votes=1), waits=True)
        if not service.write(folder, apart=False)["records"]:
            raise UserError(f"nothing has been ranked in {folder}; the same command shows the page again.")
        files.write_text_atomic(ranked, (folder / "rankings.jsonl").read_text(encoding="utf-8"))

    return wait
