"""What checkpoints cost a stage of a finished run: at the config's own interval and with the last one alone, in turn.

    python -m tests.faults.checkpoint_cost RUN sft --config=configs/quickstart.py --times=3 --keys sft.steps=900

RUN stays as it is: each time the stages before this one are copied from it. Prints for each run the seconds that the
loop took, those in which it waited for a checkpoint to be saved, and the CPU seconds that the process had in it,
writing in the background included; and the medians.
"""

import argparse
import os
import pathlib
import re
import shutil
import statistics
import sys
import tempfile

from tests.commands.forked import Forked
from tests.commands.runs import ROOT, copy_parts

BEFORE = {"pretrain": (), "sft": ("pretrain",), "reward": ("pretrain", "sft"), "ppo": ("pretrain", "sft", "reward")}
NEVER = 10**6
EVERY = {"ppo": "log.ppo_checkpoint_every"}
CODE = """
import resource, sys, time
from icegrt_jax.runs import loop
from icegrt_jax.training.checkpoints import Checkpoints
seconds, saves = [0.0], [0]

def timed(call, count):
    def told(*args, **kwargs):
        began = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            seconds[0] += time.perf_counter() - began
            saves[0] += count
    return told

cpu = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
train, loop._save = loop.train, timed(loop._save, 1)

def measured(*args):
    began, used = time.perf_counter(), cpu()
    result = train(*args)
    print(f"MEASURED {time.perf_counter() - began} {cpu() - used} {seconds[0]} {saves[0]}", flush=True)
    return result

loop.train = measured
from icegrt_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def once(run: pathlib.Path, stage: str, arguments: list[str], every: int | None) -> tuple[float, float, float, int]:
    """Seconds of the loop, CPU seconds, seconds in saving, saves."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = copy_parts((run,), pathlib.Path(folder) / "run", "data", "tokenizer", *BEFORE[stage])
        if (run / "compile_cache").exists():
            shutil.copytree(run / "compile_cache", workdir / "compile_cache")
        more = [] if every is None else [f"--config.{EVERY.get(stage, 'log.checkpoint_every')}={every}"]
        process = Forked(CODE, [stage, *arguments, *more, f"--workdir={workdir}"], env=os.environ, cwd=ROOT)
        printed, said = process.communicate()
    found = re.search(r"MEASURED (\S+) (\S+) (\S+) (\d+)", printed)
    assert process.returncode == 0 and found, said
    return float(found[1]), float(found[2]), float(found[3]), int(found[4])


def main(run: pathlib.Path, stage: str, times: int, arguments: list[str]) -> None:
    ways: dict[str, list[tuple[float, float, float, int]]] = {"its own interval": [], "the last one alone": []}
    for _ in range(times):
        for way, measured in ways.items():
            measured.append(once(run, stage, arguments, None if way == "its own interval" else NEVER))
            print(f"{way}: {measured[-1][0]:.2f} s, CPU {measured[-1][1]:.2f} s, saving {measured[-1][2]:.3f} s in "
                  f"{measured[-1][3]} saves", flush=True)  # fmt: skip
    median = lambda i: {way: statistics.median(one[i] for one in ones) for way, ones in ways.items()}
    wall, cpu, saving = median(0), median(1), median(2)
    own, alone = ways
    share = saving[own] / wall[own]
    print(f"{stage}: waited for saves {share:.2%} of the loop; wall {wall[own] / wall[alone] - 1:+.2%}, CPU "
          f"{cpu[own] / cpu[alone] - 1:+.2%} of the loop with the last one alone", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("stage", choices=[*BEFORE])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--keys", nargs="*", default=[], help="KEY=VALUE of the config")
    parser.add_argument("--config", required=True, metavar="FILE[:SWITCH]", help="of the run")
    given = parser.parse_args()
    arguments = [f"--config={given.config}", *(f"--config.{key}" for key in given.keys)]
    sys.exit(main(given.run.absolute(), given.stage, given.times, arguments))
