"""PPO for hundreds of iterations, in one process: memory, descriptors, threads and programs, before and after.

    python -m tests.faults.soak --iterations=320 --workdir=runs/soak

The smallest run; its stages up to the reward model are made first, in processes of their own. Memory is what the
process keeps resident and what of it malloc has given out, in MiB, the median of forty iterations in a row: behind
`--warmup` of them, and at the end. Every size of rows that the packing chooses is a program, compiled once. Exit 1
where memory of either kind has grown by 2 % or more, a descriptor has stayed open, or a program was compiled twice.

glibc keeps an arena for each of up to eight threads a core, and every checkpoint's new threads come upon others; what
they have freed stays resident there, some MiB an arena, for as long as the process lives. Here there is one arena, so
that what grows is the program. MALLOC_ARENA_MAX=16 in the environment measures two cores as they are without it.
"""

import argparse
import collections
import ctypes
import os
import pathlib
import shutil
import statistics
import sys
import threading

if __name__ == "__main__":
    if "MALLOC_ARENA_MAX" not in os.environ:  # glibc reads it before the first line of any program
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "MALLOC_ARENA_MAX": "1"})
    # Read by the next import: else there are eight.
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
from tests import conftest  # noqa: I001

import jax

from icegrt_jax import cli
from icegrt_jax.runs import iteration, loop
from tests.commands.runs import command, run

GROWTH = 0.02
MEDIAN_OF = 40  # the heap breathes by some percent from one iteration to the next
STEP = "compiled"  # in the name of every program that `sharding.steps` makes
KEYS = {"log.ppo_checkpoint_every": 10, "log.samples_every": 50}


def resident() -> float:
    """MiB of memory that this process keeps."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


def given_out() -> float:
    """MiB that malloc has given out and not got back, of all threads; NaN where the C library is not glibc (2.33)."""
    measure = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if measure is None:
        return float("nan")
    measure.restype = MallInfo
    found = measure()
    return (found.uordblks + found.hblkhd) / 2**20


class Measured:
    """What is found after each iteration, and which programs are called with which shapes."""

    def __init__(self):
        self.memory: list[float] = []
        self.given_out: list[float] = []
        self.descriptors: list[int] = []
        self.threads: list[int] = []
        self.programs: collections.Counter = collections.Counter()
        self.shapes: set[tuple[str, str]] = set()

    def begin(self, step: int | None) -> bool:
        return False

    def after(self, step: int, outcome: loop.Outcome, write: loop.Write) -> bool:
        self.memory.append(resident())
        self.given_out.append(given_out())
        self.descriptors.append(len(os.listdir("/proc/self/fd")))
        self.threads.append(threading.active_count())
        if step % 20 == 0:
            print(f"iteration {step}: {self.memory[-1]:.1f} MiB resident, "
                  f"{self.given_out[-1]:.1f} given out, {self.descriptors[-1]} descriptors, "
                  f"{self.threads[-1]} threads", flush=True)  # fmt: skip
        return False

    def compiled(self, event: str, duration: float, **about) -> None:
        """A listener of JAX: one more program, or one of the same name and shapes."""
        if event == "/jax/core/compile/backend_compile_duration":
            self.programs[about.get("fun_name", "?")] += 1

    def called(self, make):
        """`jit_step` whose steps put down with which shapes they are called."""

        def jit_step(step, *rest):
            compiled, name = make(step, *rest), getattr(step, "__name__", "update")

            def call(*args):
                self.shapes.add((name, str([(x.shape, str(x.dtype)) for x in jax.tree.leaves(args[1:])])))
                return compiled(*args)

            return call

        return jit_step


def main(iterations: int, warmup: int, workdir: pathlib.Path) -> bool:
    """Whether nothing has grown."""
    shutil.rmtree(workdir, ignore_errors=True)
    for stage in ("pretrain", "sft", "reward"):
        made = run(stage, workdir)
        assert made.returncode == 0, made.stderr
    measured = Measured()
    jax.monitoring.register_event_duration_secs_listener(measured.compiled)
    iteration.jit_step = measured.called(iteration.jit_step)
    make = loop.Loop
    loop.Loop = lambda *args, watchers=(), **more: make(*args, watchers=(*watchers, measured), **more)
    arguments = command("ppo", workdir, **{**KEYS, "ppo.iterations": iterations})
    assert cli.main(arguments) == 0
    return told(measured, warmup)


def told(measured: Measured, warmup: int) -> bool:
    """Prints what has grown, and says whether nothing has."""
    ends = (warmup + MEDIAN_OF, len(measured.memory))
    median = lambda values: [statistics.median(values[end - MEDIAN_OF : end]) for end in ends]
    grown = []
    for kind, values in (("resident", measured.memory), ("given out by malloc", measured.given_out)):
        before, after = median(values)
        grown.append(after / before - 1)
        print(f"{kind}: {before:.1f} MiB behind {warmup} iterations, {after:.1f} after {len(values)}, {grown[-1]:+.2%}")
    first, last = median(measured.descriptors)
    print(f"{last - first:+.0f} descriptors, at most {max(measured.threads[warmup:])} threads")
    for name, sizes in sorted(collections.Counter(name for name, _ in measured.shapes).items()):
        print(f"{name}: {sizes} sizes of arguments")
    steps = sum(n for name, n in measured.programs.items() if STEP in name)
    print(f"{len(measured.shapes)} sizes in all, {steps} programs compiled for them", flush=True)
    return not any(x >= GROWTH for x in grown) and last <= first and steps == len(measured.shapes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=320)
    parser.add_argument("--warmup", type=int, default=40)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="a folder for the run; emptied first")
    given = parser.parse_args()
    assert conftest.XLA_FLAGS
    sys.exit(not main(given.iterations, given.warmup, given.workdir.absolute()))
