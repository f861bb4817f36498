"""SFT and PPO stopped and gone on with, again and again, each time under another number of processes or another mesh.

    python -m tests.faults.process_counts --workdir=runs/counts

The smallest chain. One run is uninterrupted, of one process; then a stage goes through the meshes of a way: under each
it is stopped by a SIGTERM after some steps, and the same command goes on under the next one. The rows of metrics must
be of the same steps, each once, and their numbers those of the uninterrupted run to the tolerances of
tests/hosts/test_hosts.py; of PPO the sampled texts must be the same as well: they are of the same prompts, drawn with
the same keys. Prints the greatest difference of each way; exit 1 where something was otherwise.
"""

import argparse
import dataclasses
import pathlib
import shutil
import signal
import sys

import numpy as np

from icegrt_jax import files
from icegrt_jax.training.metrics import read_metrics
from tests import conftest
from tests.commands.runs import copy_parts, run
from tests.hosts.test_hosts import ends, start

RTOL, ATOL, ATOL_OF = 1e-3, 1e-3, {"score": 0.02, "score_raw": 0.02}
BEFORE = {"sft": ("data", "tokenizer", "pretrain"), "ppo": ("data", "tokenizer", "pretrain", "sft", "reward")}
KEYS = {"ppo.iterations": 9}  # several processes stop up to two steps after they were asked to


@dataclasses.dataclass(frozen=True)
class Mesh:
    """So many processes of one device, and how they lie."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def processes(self) -> int:
        return self.data * self.fsdp * self.tensor

    def __str__(self) -> str:
        axes = " x ".join(f"{name} {size}" for name, size in dataclasses.asdict(self).items() if size > 1)
        return f"{self.processes} ({axes or 'one device'})"

    def keys(self) -> dict[str, int]:
        return {f"mesh.{name}": size for name, size in dataclasses.asdict(self).items()}


ONE = Mesh()
WAYS = {
    "ppo": (
        (ONE, Mesh(data=2), Mesh(data=2, fsdp=2), Mesh(fsdp=2), ONE),
        (Mesh(fsdp=4), ONE, Mesh(fsdp=2, tensor=2), Mesh(tensor=2)),
    ),
    "sft": ((ONE, Mesh(fsdp=2), Mesh(data=2, tensor=2)), (Mesh(data=4), ONE, Mesh(tensor=2))),
}  # fmt: skip


def carried_out(stage: str, workdir: pathlib.Path, mesh: Mesh, *, stop: bool) -> int:
    """The stage under a mesh, stopped in its first step there or, if not, to its end; the step that is saved."""
    at = (mesh.processes - 1, stage, _saved(stage, workdir) + 1, int(signal.SIGTERM)) if stop else None
    codes, _, errors = ends(start(stage, workdir, mesh.processes, stop=at, limit=300, **mesh.keys(), **KEYS))
    assert codes == [128 + signal.SIGTERM if stop else 0] * mesh.processes, errors
    return _saved(stage, workdir)


def _saved(stage: str, workdir: pathlib.Path) -> int:
    return max((int(path.name) for path in (workdir / stage / "checkpoints").glob("[0-9]*")), default=0)


def compared(stage: str, workdir: pathlib.Path, whole: pathlib.Path) -> tuple[float, str, list[str]]:
    """The greatest difference as a part of what is tolerated, of which metric, and what is otherwise beyond that."""
    rows, expected = (read_metrics(folder / stage / "metrics.jsonl") for folder in (workdir, whole))
    steps, wanted = ([row["step"] for row in some] for some in (rows, expected))
    if steps != wanted or [row.keys() for row in rows] != [row.keys() for row in expected]:
        return np.inf, "", [f"rows of steps {steps}, expected {wanted}"]
    most, of = 0.0, ""
    for row, other in zip(rows, expected, strict=True):
        for name in row:
            part = abs(row[name] - other[name]) / (ATOL_OF.get(name, ATOL) + RTOL * abs(other[name]))
            most, of = max((most, of), (part, f"{name} of step {row['step']}, {row[name]:.6g} and {other[name]:.6g}"))
    bad = [f"{of}: {most:.2f} of what is tolerated"] if most > 1 else []
    if stage == "ppo":
        samples = lambda folder: files.read_jsonl(folder / stage / "samples.jsonl")
        texts = lambda folder: [(row["step"], row["response"]) for row in samples(folder)]
        bad += [] if texts(workdir) == texts(whole) else ["other texts were sampled"]
    return most, of, bad


def main(folder: pathlib.Path, whole: pathlib.Path | None, stages: list[str], ways: list[int]) -> bool:
    """Whether every change has left the numbers as they were."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "compiled").mkdir(parents=True)
    good = True
    if whole is None:
        whole = folder / "whole"
        made = run("run", whole, **KEYS)
        assert made.returncode == 0, made.stderr
    for stage, number in ((stage, number) for stage in stages for number in ways if number < len(WAYS[stage])):
        workdir = copy_parts((whole,), folder / "run", *BEFORE[stage])
        (workdir / "compile_cache").symlink_to(folder / "compiled")
        *stopped, last = WAYS[stage][number]
        walked = []
        for mesh, stop in [*((mesh, True) for mesh in stopped), (last, False)]:
            walked.append(f"{mesh} to step {carried_out(stage, workdir, mesh, stop=stop)}")
            print(f"{stage}: {walked[-1]}", flush=True)
        most, of, bad = compared(stage, workdir, whole)
        good &= not bad
        print(f"| {stage} | {', '.join(walked)} | {most:.3f} of the tolerance: {of} | "
              f"{'; '.join(bad) or 'no step skipped or repeated'} |", flush=True)  # fmt: skip
        shutil.rmtree(workdir)
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="a folder for all files; emptied first")
    parser.add_argument("--whole", type=pathlib.Path, help="the uninterrupted run; made where none is given")
    parser.add_argument("--stages", nargs="*", default=[*BEFORE], choices=[*BEFORE])
    parser.add_argument("--ways", nargs="*", type=int, default=[0, 1], help="numbers of the ways, from 0")
    given = parser.parse_args()
    assert conftest.XLA_FLAGS
    whole = given.whole and given.whole.absolute()
    sys.exit(not main(given.workdir.absolute(), whole, given.stages, given.ways))
