"""What a stage that is not finished has sampled, kept on disk: whoever goes on with it samples none of it again.

So are the answers of the user's reward functions, see `reward_kept`. A file of samples is named after all that they
depend on: the checksum of the policy, its shape, prompts, keys and sampler. So it is found by who would draw the same
to the bit, and by nobody else; of a damaged one the samples are drawn again.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from icegrt_jax.hosts import sync
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.sampling.draw import SamplerConfig
from icegrt_jax.training import checksums

FOLDER = ".draws"  # in that of the stage, until `rundir.finish`

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a stage keeps what it samples.

    folder: of the stage. there: names of the files it began with, the same in every process. Nothing else is looked
    for, so an iteration waits for no other process. every: steps to a checkpoint, behind which nothing is kept; 0: all
    is kept until the end.
    """

    folder: pathlib.Path
    there: frozenset[str]
    every: int = 0

    def found(self, asked: str, names: Sequence[str], draw: Callable[[], Arrays], step: int = 0) -> Arrays:
        """The arrays, as they are kept or as `draw` makes them for this `step`; `asked`: see `identity`."""
        if self.has(asked, step):
            arrays = self.read(asked, names, step)
            # All draw, or none: sampling is one program over the devices of all.
            if all(sync.exchange(f"samples {asked} are read", arrays is not None)) and arrays is not None:
                return arrays
        made = draw()
        self.write(asked, made, step)
        return made

    def has(self, asked: str, step: int = 0) -> bool:
        """Whether the stage began with a file of that name, the same in every process; it may be damaged."""
        return self._path(asked, step).name in self.there

    def read(self, asked: str, names: Sequence[str], step: int = 0) -> Arrays | None:
        """The arrays as they were written; None where they are not there or not that."""
        return _read(self._path(asked, step), names)

    def write(self, asked: str, arrays: Arrays, step: int = 0) -> None:
        """Keeps them; the main process alone does."""
        if sync.is_main():
            self._forget_before(step)
            _write(self._path(asked, step), arrays)

    def _path(self, asked: str, step: int) -> pathlib.Path:
        return self.folder / FOLDER / f"{step:08d}-{asked}.npz"

    def _forget_before(self, step: int) -> None:
        """Deletes what two checkpoints have made needless, the first of which is complete when the second is begun."""
        last = (step - 1) // self.every * self.every - self.every if self.every else -1
        for path in (self.folder / FOLDER).glob("*.npz") if last > 0 else ():
            if int(path.name.partition("-")[0]) <= last:
                path.unlink(missing_ok=True)


def identity(params: Any, model: ModelConfig, key: jax.Array, sampler: SamplerConfig, *asked: Any) -> str:
    """Of samples from these parameters, which lie on the devices, with a key; `asked`: what else they depend on."""
    digest = hashlib.sha256()
    for part in (checksums.of_tree(params), model, sampler, np.asarray(jax.random.key_data(key)), *asked):
        array = isinstance(part, np.ndarray)
        digest.update(f"{part.dtype} {part.shape}".encode() + part.tobytes() if array else repr(part).encode())
    return digest.hexdigest()[:32]


def place(folder: pathlib.Path, every: int = 0) -> Place:
    """That of a stage which begins or goes on, see `Place`."""
    there = lambda: sorted(path.name for path in (folder / FOLDER).glob("*.npz"))
    return Place(folder, frozenset(sync.from_main(f"samples in {folder} are looked for", there)), every)


def forget(folder: pathlib.Path) -> None:
    """Deletes what is kept of a stage that has used it."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _write(path: pathlib.Path, arrays: Arrays) -> None:
    """Whole, or in a file that is never read: what a crash of the machine leaves of it has another digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            named: dict[str, Any] = {**arrays, "digest": np.frombuffer(_digest(arrays), np.uint8)}
            np.savez(file, **named)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: pathlib.Path, names: Sequence[str]) -> Arrays | None:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in names}
            return arrays if file["digest"].tobytes() == _digest(arrays) else None
    except Exception:  # of a library, over bytes that may be anything
        return None


def _digest(arrays: Arrays) -> bytes:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
