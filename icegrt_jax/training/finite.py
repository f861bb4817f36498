"""Whether a run may go on: every number of it is finite, or it stops with a sentence."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync

_MAX_NAMED = 3  # arrays named in an error


class TrainingError(UserError):
    """Training cannot go on: a metric, a gradient or an array of the state is not finite.

    Attributes:
      outcome: the step that was under way and what else it has come to, where the loop knows; see `runs.not_finite`.

    Args:
      step: whose batch has done it.
    """

    def __init__(self, sentence: str, *, step: int):
        super().__init__(sentence)
        self.step = step
        self.outcome: tuple[int, Any] | None = None


def check_finite(step: int, metrics: dict[str, Any], left: Callable[[], str] = str) -> None:
    """Raises TrainingError naming the step and each metric that has a NaN or an infinity.

    Args:
      left: says what there is to go on from, see `Checkpoints.left`; called where it is needed.
    """
    metrics = {k: np.asarray(v, np.float64) for k, v in jax.device_get(metrics).items()}
    bad = [(f"{k}={v}" if v.ndim == 0 else k) for k, v in metrics.items() if not np.isfinite(v).all()]
    if bad:
        raise TrainingError(f"Step {step}: not finite: {', '.join(bad)}. {left()}".rstrip(), step=step)


def check_finite_tree(step: int, tree: Any, left: Callable[[], str] = str) -> None:
    """Raises TrainingError naming the arrays of a tree that hold a NaN or an infinity; the same on every host."""
    leaves = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    finite = sync.fetch(_all_finite([leaf for _, leaf in leaves]))
    bad = [name for (name, _), is_finite in zip(leaves, finite, strict=True) if not is_finite]
    if bad:
        named = ", ".join(bad[:_MAX_NAMED])
        named += f" and {len(bad) - _MAX_NAMED} more arrays" if len(bad) > _MAX_NAMED else ""
        raise TrainingError(f"Step {step}: not finite: {named}; not saved. {left()}".rstrip(), step=step)


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> list[jax.Array]:
    """Of each array one bool[], reduced where its parts are."""
    return [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
