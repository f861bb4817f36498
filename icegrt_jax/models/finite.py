"""Whether a model's weights are numbers: with one NaN among them its answers are empty and its scores are none."""

from typing import TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.models.tree import flatten

MAX_NAMED = 3  # arrays named in an error


def check_weights(where: str, params: dict) -> None:
    """Raises UserError naming the arrays that hold a NaN or an infinity.

    Args:
      where: the model was read from.
    """
    bad = [name for name, leaf in flatten(params).items() if not is_finite(leaf)]
    if bad:
        more = f" and {len(bad) - MAX_NAMED} more arrays" if len(bad) > MAX_NAMED else ""
        raise UserError(
            f"{where}: weights that are not finite: {', '.join(bad[:MAX_NAMED])}{more}; the model is damaged, or its "
            "training has gone wrong. Fetch it again, or take another."
        )


def is_finite(leaf: jax.Array | np.ndarray) -> bool:
    """Whether an array holds numbers only, the same in every process; of whole numbers it does."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return True
    if _is_device(leaf) and not (leaf.is_fully_addressable and _on_cpu(leaf)):
        return bool(sync.fetch(_all_finite(leaf)))
    # Where it lies, a part at a time: put together it would be a copy that JAX keeps.
    parts = [part.data for part in leaf.addressable_shards if not part.replica_id] if _is_device(leaf) else [leaf]
    return all(bool(np.isfinite(np.asarray(part)).all()) for part in parts)


def _is_device(leaf: jax.Array | np.ndarray) -> TypeGuard[jax.Array]:
    return isinstance(leaf, jax.Array)


def _on_cpu(leaf: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in leaf.devices())


@jax.jit
def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(leaf))
