"""Two finished workdirs, compared byte for byte but for what holds times."""

import hashlib
import json
import pathlib
import re

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from icegrt_jax.training.metrics import read_metrics

# Not compared: TensorBoard's events, which have times; the programs that JAX keeps; compiles.json, the seconds and
# numbers of what a process compiled; times.jsonl, and the report, which shows them; the lock. Orbax's files have times:
# of a checkpoint the arrays are compared.
EXCEPT = re.compile(
    r"(^|/)(events\.out\.[^/]*|compiles\.json|times\.jsonl|\.lock)$|^(compile_cache|report)/|/(checkpoints|best|average)/\d+/"
)
CHECKPOINT = "_CHECKPOINT_METADATA"


def tree(workdir: pathlib.Path) -> dict[str, str]:
    """SHA-256 by name of every file that is compared, and of every array of every checkpoint."""
    found = {}
    for path in sorted(p for p in workdir.rglob("*") if p.is_file()):
        name = path.relative_to(workdir).as_posix()
        if path.name == CHECKPOINT:
            place = path.parent.relative_to(workdir).as_posix()
            found |= {f"{place}:{array}": digest for array, digest in arrays(path.parent).items()}
        if not EXCEPT.search(name):
            found[name] = hashlib.sha256(content(path)).hexdigest()
    return found


def arrays(checkpoint: pathlib.Path) -> dict[str, str]:
    """SHA-256 of each array of a checkpoint, by its name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(ocp.load(checkpoint))
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    data = lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x).tobytes()
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): hashlib.sha256(data(leaf)).hexdigest() for path, leaf in leaves}


def content(path: pathlib.Path, left_out: re.Pattern[str] = EXCEPT) -> bytes:
    """Of checksums.json without the line of a file that is not compared."""
    if path.name != "checksums.json":
        return path.read_bytes()
    entries = json.loads(path.read_bytes())
    return json.dumps({name: entry for name, entry in entries.items() if not left_out.search(name)}).encode()


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The names that only one of two trees has, or that are otherwise in it."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def steps(workdir: pathlib.Path) -> dict[str, list[int]]:
    """The steps of each stage's rows of metrics, in their order."""
    return {
        path.parent.name: [row["step"] for row in read_metrics(path)]
        for path in sorted(workdir.glob("*/metrics.jsonl"))
    }


def lost_and_doubled(found: dict[str, list[int]], expected: dict[str, list[int]]) -> tuple[int, int]:
    """Rows of metrics that are missing, and those that are there too often."""
    count = lambda steps, step: steps.count(step)
    lost = doubled = 0
    for stage in found.keys() | expected.keys():
        ours, theirs = found.get(stage, []), expected.get(stage, [])
        for step in {*ours, *theirs}:
            more = count(ours, step) - count(theirs, step)
            lost, doubled = lost + max(-more, 0), doubled + max(more, 0)
    return lost, doubled
