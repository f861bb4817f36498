"""`icegrt plan`: whether a run fits a topology and how long it takes at least, without the topology."""

import dataclasses
import functools
import json
import os
import pathlib
import sys

from icegrt_jax.config.options import Options, RewardOptions
from icegrt_jax.errors import UserError
from icegrt_jax.plan.topology import parse_topology, prepare

DOES_NOT_FIT = 3  # exit code
DEFAULT_CACHE = "~/.cache/icegrt_jax/plan"


def main(
    config: Options,
    *,
    name: str,
    topology: str,
    slices: int = 1,
    memory: float = 0.0,
    answers: int = 4,
    quick: bool = False,
    sweep: bool = False,
    as_json: bool = False,
    cache: str = DEFAULT_CACHE,
) -> int:
    """Prints the plan and returns the exit code: 0, or DOES_NOT_FIT.

    Args:
      config: of the run.
      name: of the config, for the heading.
      topology: such as v5e:2x4.
      slices: how many of them.
      memory: GiB of a chip's memory, 0 for what it has.
      answers: of a ranked prompt; the data say how many, and no data are read.
      quick: leaves out the search for the largest batches.
      sweep: tries meshes and rematerialisation in place of planning the config's own.
      as_json: for programs.
      cache: folder of what has been compiled, "" for none.
    """
    where = parse_topology(topology, slices)
    prepare(where)
    from icegrt_jax.commands import planned
    from icegrt_jax.plan import plan, report  # jax reads the environment when it is imported

    folder = pathlib.Path(os.path.expanduser(cache)) if cache else None
    target = plan.make_target(where, memory * 2**30, folder)
    run = planned.Planned(config, target, answers)
    if sweep:
        return _sweep(run, target, as_json)
    mesh, programs = run.programs({})
    if not programs:
        raise UserError("no stage of this config has steps or iterations: there is nothing to plan.")
    rows = []
    for number, program in enumerate(programs, 1):
        _say(f"compiling {number} of {len(programs)}", program.name)
        rows.append(plan.plan_row(program, mesh, target))
    roles, seconds = plan.role_bytes(programs), plan.totals(run.steps, rows)
    largest = [] if quick or target.memory is None else _largest(run, target, rows)
    notes = _notes(config.reward, answers)
    if as_json:
        print(json.dumps({
            "notice": report.NOTICE, "topology": str(where), "chips": where.chips, "mesh": dict(mesh.shape),
            "notes": notes, "roles": roles, "programs": [dataclasses.asdict(row) for row in rows], "seconds": seconds,
            "largest": [dataclasses.asdict(found) for found in largest], "fits": _fits(rows),
        }, indent=1))  # fmt: skip
    else:
        print(report.header(name, target, mesh, notes))
        for text in (report.roles_table(roles), report.memory_table(rows), report.cost_table(rows)):
            print(f"\n{text}")
        print(f"\n{report.summary(rows, seconds, largest)}")
    return DOES_NOT_FIT if _fits(rows) is False else 0


def _fits(rows) -> bool | None:
    answers = [row.fits for row in rows]
    return None if None in answers else all(answers)


def _say(*texts: str) -> None:
    print(f"plan  {': '.join(texts)}", file=sys.stderr, flush=True)


def _largest(run, target, rows) -> list:
    """The largest batch of each key that a program's bytes depend on."""
    from icegrt_jax.plan import search

    found, keys = [], list(dict.fromkeys(row.batch_key for row in rows if row.batch_key))
    for number, key in enumerate(keys, 1):
        heading = f"searching {number} of {len(keys)}"
        same = [row for row in rows if row.batch_key == key]
        found.append(search.largest_batch(run, target, same, functools.partial(_say, heading)))
    return found


def _notes(reward: RewardOptions, answers: int) -> list[str]:
    """What is assumed where only data or tokenizers would tell."""
    notes = ["Prompts and responses at their full length, every response decoded to its end."]
    if reward.steps:
        notes.append(f"A ranked prompt has {answers} answers (--answers).")
    if reward.init not in ("sft", "scratch"):
        notes.append("The reward model reads the policy's ids if the vocabularies are equal in size, else text.")
    return notes


def _sweep(run, target, as_json: bool) -> int:
    from icegrt_jax.plan import report, sweep

    trials, ways = [], sweep.ways(target.topology.chips)
    for number, values in enumerate(ways, 1):
        trials.append(sweep.trial(run, values, target))
        last = trials[-1]
        layout = f"mesh {last.mesh}, remat {values['model.remat']}"
        _say(f"tried {number} of {len(ways)}", layout, last.reason or f"{report.gib(last.peak)} GiB")
    found = sweep.best(trials)
    if as_json:
        print(json.dumps({
            "notice": report.NOTICE, "topology": str(target.topology), "chips": target.topology.chips,
            "trials": [dataclasses.asdict(trial) for trial in trials],
            "best": None if found is None else found.values,
        }, indent=1))  # fmt: skip
    else:
        print(f"{report.chips(target.topology)}. {report.NOTICE}\n\n{report.sweep_table(trials)}\n")
        if found is None:
            print("None of them fits.")
        else:
            flags = " ".join(f"--config.{key}={str(value).lower()}" for key, value in found.values.items())
            print(f"Best: {flags}")
    return DOES_NOT_FIT if found is None else 0
