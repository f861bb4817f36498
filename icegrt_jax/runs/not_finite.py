"""What a step that was not finite was made of is kept in the stage's folder, for whoever looks for the cause."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from icegrt_jax import files
from icegrt_jax.hosts import sync
from icegrt_jax.training.finite import TrainingError

FOLDER = "not_finite"  # of a stage


def explained(
    error: TrainingError,
    folder: pathlib.Path,
    make: Callable[[int], Any],
    of_rollout: Callable[[Any], tuple[Any, Sequence[dict]]] | None,
) -> TrainingError:
    """The error with where the batch or rollout is that has done it, which is kept there.

    Args:
      folder: of the stage.
      make: the host's part of a step.
      of_rollout: of what the step has come to the arrays, and a row for each text; None: its batch says it all.
    """
    step, tree = error.step, None
    rows: Sequence[dict] = ()
    if of_rollout is not None and error.outcome is not None:
        step, more = error.outcome
        tree, rows = of_rollout(more)
    try:
        path = _written(folder / FOLDER, step, make(step) if tree is None else tree, rows)
    except OSError as problem:
        said = f"{folder / FOLDER} could not be written ({problem.strerror})"
    else:
        said = f"{'its rollout' if rows else f'the batch of step {step}'} is kept in {path}"
    return TrainingError(f"{error} {said[0].upper()}{said[1:]}.", step=error.step)


def _written(folder: pathlib.Path, step: int, tree: Any, rows: Sequence[dict]) -> pathlib.Path:
    """The file of the arrays, by name; of several processes each writes what it has."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(sync.fetch(tree))
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/") or "batch"
    arrays = {name(path): np.asarray(leaf) for path, leaf in leaves}
    own = f"step_{step}" + (f".process_{jax.process_index()}" if jax.process_count() > 1 else "")
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = folder / f"{own}.npz", folder / f".{own}.npz"
    np.savez(temporary, **arrays)
    os.replace(temporary, path)
    if rows and sync.is_main():
        texts = folder / f"step_{step}.jsonl"
        texts.unlink(missing_ok=True)
        files.append_jsonl(texts, rows)
    return path
