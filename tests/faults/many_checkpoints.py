"""A checkpoint at each of many steps under a low limit of descriptors: how many are open, how many threads run.

python -m tests.faults.many_checkpoints --steps=200 --limit=256
"""

import argparse
import os
import pathlib
import resource
import tempfile
import threading
import types

import jax

from icegrt_jax.runs.loop import Loop, resumed, train
from icegrt_jax.sharding.mesh import make_mesh
from tests.runs import test_loop as toy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--limit", type=int, default=256, help="of descriptors")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (args.limit, args.limit))

    def advance(state, step, made, progress):
        if step == 10 or step % 50 == 0:
            open_, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
            print(f"step {step}: {open_} descriptors, {threads} threads", flush=True)
        return toy.advance(state, step, made, progress)

    with tempfile.TemporaryDirectory() as folder:
        stages = types.SimpleNamespace(
            folder=lambda stage: pathlib.Path(folder) / stage, mesh=make_mesh(data=-1, fsdp=1, tensor=1)
        )
        state, start = resumed(stages, "toy", toy._state(jax.random.key(0)))
        train(stages, Loop("toy", args.steps, float, advance, save_every=1, shown=("loss",)), state, start)


if __name__ == "__main__":
    main()
