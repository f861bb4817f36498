"""Every file of a checkpoint, damaged in five ways: what is read is what was saved, of its step or of the one before.

python -m tests.faults.checkpoints --times=14
"""

import argparse
import collections
import pathlib
import random
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.training.checkpoints import Checkpoints, abstract_like
from tests.faults.damages import WAYS, damage


def state(step: int) -> dict:
    w = jax.random.normal(jax.random.key(step), (64, 48))
    return {"params": {"w": w, "half": w.astype(jnp.bfloat16), "ids": jnp.arange(step, step + 300)},
            "key": jax.random.key(step), "step": jnp.int32(step)}  # fmt: skip


def same(one: dict, other: dict) -> bool:
    data = lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
    return all(data(a).tobytes() == data(b).tobytes() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def save(folder: pathlib.Path) -> None:
    """Checkpoints of steps 2 and 4."""
    with Checkpoints(folder) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, state(step))


def files_of(checkpoint: pathlib.Path) -> list[str]:
    """Names of its files, those of arrays first."""
    found = [path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()]
    return sorted(found, key=lambda name: ("/d/" not in name, name))


def read(folder: pathlib.Path) -> int:
    """The step that is gone on from, whose state is what was saved."""
    with Checkpoints(folder) as checkpoints:
        restored, step = checkpoints.newest(abstract_like(state(4)))
    assert same(restored, state(step)), "other numbers than were saved"
    return step


def tried(saved: pathlib.Path, folder: pathlib.Path, name: str, way: str, rng: random.Random) -> int:
    """The step that a copy is gone on from of which a file of the newest checkpoint is damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    damage(folder / "4" / name, way, rng)
    return read(folder)


def main(times: int, seed: int) -> None:
    """Prints how often which checkpoint was gone on from; anything else is an exception."""
    rng, counts = random.Random(seed), collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as temporary:
        saved, folder = pathlib.Path(temporary) / "saved", pathlib.Path(temporary) / "run" / "checkpoints"
        save(saved)
        for _ in range(times):
            for name in files_of(saved / "4"):
                for way in WAYS:
                    counts[name.rpartition("/d/")[0] or name][tried(saved, folder, name, way, rng)] += 1
    for name, steps in counts.items():
        print(f"{name}: harmless {steps[4]}, the one before {steps[2]}")
    print(f"{sum(sum(steps.values()) for steps in counts.values())} damages, other numbers: 0", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=14, help="how often each file is damaged in each way")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
