"""SIGTERM and SIGINT at random moments of the first seconds of a run, imports included: how each of them ends.

python -m tests.faults.early_signals --times=20 --within=12 --seed=0
"""

import argparse
import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
FIRST = 0.15  # seconds in which Python itself starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--within", type=float, default=12.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, ends = random.Random(args.seed), collections.Counter()
    for _ in range(args.times):
        signum, delay = rng.choice([signal.SIGINT, signal.SIGTERM]), rng.uniform(FIRST, args.within)
        how = end(signum, delay)
        ends["as it should" if how == "" else "otherwise"] += 1
        if how:
            print(f"{signum.name} after {delay:.2f} s: {how}")
    print(dict(ends))


def end(signum: signal.Signals, delay: float) -> str:
    """How a run ends that gets the signal after so many seconds; "" where it is as it should be."""
    command = [sys.executable, "-m", "icegrt_jax", "run", "--config=configs/quickstart.py:smoke"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*command, f"--workdir={folder}/run"], cwd=ROOT, env=env, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signum)
        said = process.communicate(timeout=120)[1]
    last = said.splitlines()[-1:] or [""]
    sentence = f"{signum.name}: what was saved is kept; run the same command to continue."
    good = process.returncode == 128 + signum and last[0] == sentence and "Traceback" not in said
    return "" if good else f"exit code {process.returncode}, {said[-300:]!r}"


if __name__ == "__main__":
    main()
