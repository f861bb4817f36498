"""Answers of a stage that is not finished, kept on disk: whoever goes on with it draws none of them again.

A file is named after all that its draw depends on: the policy, by the stages that were finished before it, prompts, key
and sampler. Of a damaged one the answers are drawn again. `rundir.finish` deletes them.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from icegrt_jax import files
from icegrt_jax.hosts import sync
from icegrt_jax.sampling.draw import SamplerConfig
from icegrt_jax.sampling.generate import Generation

FOLDER = ".draws"  # in that of the stage
ARRAYS = ("prompts", "prompt_mask", "tokens", "mask", "finished", "logprobs")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the answers of one policy are kept.

    folder: of the stage. who: the policy. made_by: checksums of what says that the stages before are finished.
    """

    folder: pathlib.Path
    who: str
    made_by: tuple[str, ...]

    def drawn(
        self, prompts: Sequence, key: jax.Array, sampler: SamplerConfig, shape: dict[str, int],
        draw: Callable[[], Generation], decode: Callable[[np.ndarray, np.ndarray], list[str]],
    ) -> Generation:  # fmt: skip
        """The answers, as they are kept or as `draw` makes them; `shape`: how many, in what batches."""
        key_data = np.asarray(jax.random.key_data(key)).tolist()
        asked = [self.who, self.made_by, key_data, dataclasses.asdict(sampler), shape, prompts]
        name = hashlib.sha256(json.dumps(asked, default=repr).encode()).hexdigest()
        path = self.folder / FOLDER / f"{name[:32]}.npz"
        arrays = _read(path)
        # All draw, or none: sampling is one program over the devices of all.
        if all(sync.exchange(f"kept answers of {self.who} are looked for", arrays is not None)) and arrays is not None:
            return Generation(**arrays, text=decode(arrays["tokens"], arrays["mask"]), sampler=sampler)
        made = draw()
        sync.main_first(path, lambda: _write(path, {name: getattr(made, name) for name in ARRAYS}))
        return made


def place(workdir: pathlib.Path, stage: str, who: str) -> Place:
    """For answers of `who`, which a stage draws."""

    def made_by() -> list[str]:
        marks = [path for pattern in ("*/done.json", "rounds/*/*/done.json") for path in workdir.glob(pattern)]
        before = sorted(path for path in marks if path.parent != workdir / stage)
        return [f"{path.relative_to(workdir)} {files.sha256(path)}" for path in before]

    return Place(workdir / stage, who, tuple(sync.from_main(f"{stage}: finished stages are looked for", made_by)))


def count(folder: pathlib.Path) -> int:
    """How many draws a stage finds."""
    return len(list((folder / FOLDER).glob("*.npz")))


def forget(folder: pathlib.Path) -> None:
    """Deletes what is kept of a stage that has used it."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _write(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            named: dict[str, Any] = {**arrays, "digest": np.frombuffer(_digest(arrays), np.uint8)}
            np.savez(file, **named)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """The arrays as they were written; None where they are not there or not that."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
            return arrays if file["digest"].tobytes() == _digest(arrays) else None
    except Exception:  # of a library, over bytes that may be anything; the answers are drawn again
        return None


def _digest(arrays: dict[str, np.ndarray]) -> bytes:
    digest = hashlib.sha256()
    for name in ARRAYS:
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.digest()
