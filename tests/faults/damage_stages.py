"""Damaged files of the smallest chain: finished, and stopped in the middle of each stage; see `tests.faults.damage`.

    python -m tests.faults.damage_stages --each=2 --seed=0 --workdir=runs/damages

Of each state every kind of file of every stage is damaged in the five ways, `--each` files of it drawn by the seed. The
command that goes on is that of the stage which was stopped, so that each shows what it says by itself; of the finished
run it is `run`. Prints what each has ended as, and a table; in several portions with the same folder and other seeds.
"""

import argparse
import collections
import pathlib
import random
import shutil
import signal
import sys

from tests import conftest
from tests.commands.runs import begin, command, ended, one_device
from tests.faults import damage

# Where the chain is stopped, one after the other: behind a checkpoint and with another one, before the stage's end.
STOPS = (("pretrain", 4), ("sft", 5), ("reward", 4), ("ppo", 3), ("evaluate", 2))


def states(folder: pathlib.Path, env: dict[str, str]) -> dict[str, pathlib.Path]:
    """Workdirs, each under the command that goes on there, made once for the folder."""
    workdir, found = folder / "run", {stage: folder / stage for stage, _ in STOPS}
    if (folder / "made").exists():
        return {**found, "run": workdir}
    shutil.rmtree(folder, ignore_errors=True)
    for stage, step in STOPS:
        process = ended(begin(command("run", workdir), stop=(stage, step, int(signal.SIGTERM)), env=env))
        assert process.returncode == 128 + signal.SIGTERM, process.stderr
        shutil.copytree(workdir, found[stage])
    process = ended(begin(command("run", workdir), env=env))
    assert process.returncode == 0, process.stderr
    (folder / "made").touch()
    return {**found, "run": workdir}


def chosen(workdir: pathlib.Path, each: int, rng: random.Random) -> list[tuple[str, str]]:
    """Of every kind of file of every folder so many files in each way."""
    groups = collections.defaultdict(list)
    for name, way in damage.damages(workdir):
        groups[damage.kind_of(name), name.partition("/")[0], way].append((name, way))
    return [one for group in groups.values() for one in rng.sample(group, min(each, len(group)))]


def main(folder: pathlib.Path, each: int, most: int, seed: int, only: list[str]) -> bool:
    """Whether every damage has ended well."""
    env = {name: value for name, value in one_device().items() if name != "JAX_COMPILATION_CACHE_DIR"}
    rng, all_ = random.Random(seed), collections.defaultdict(collections.Counter)
    for stage, workdir in states(folder, env).items():
        if only and stage not in only:
            continue
        arguments = [one for one in command(stage, workdir) if not one.startswith("--workdir=")]
        damages = chosen(workdir, each, rng)
        damages = rng.sample(damages, min(most, len(damages)))
        counts = damage.tried(workdir, arguments, damages, rng, env=env)
        print(f"{'finished' if stage == 'run' else f'stopped in {stage}'}: {_said(counts)}", flush=True)
        for kind, ends in counts.items():
            all_[kind] += ends
    return damage.table(all_, seed)


def _said(counts: dict[str, collections.Counter]) -> dict[str, int]:
    return dict(sum(counts.values(), collections.Counter()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=1, help="files of each kind, folder and way")
    parser.add_argument("--most", type=int, default=10**9, help="damages of a state, drawn from these by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="states: stages that were stopped; run: the finished one")
    parser.add_argument(
        "--workdir", type=pathlib.Path, required=True, help="a folder for all files; the states are made once"
    )
    given = parser.parse_args()
    assert conftest.XLA_FLAGS
    sys.exit(not main(given.workdir.absolute(), given.each, given.most, given.seed, given.only))
