"""When the critic has learned enough for the actor to begin: once its error has stopped falling."""

import jax
import jax.numpy as jnp

FALLS = 0.02  # of the error from one window to the next; a smaller fall is none


def start(window: int) -> dict[str, jax.Array]:
    """What is kept of the warm-up, before its first iteration; for windows of so many iterations.

    errors: f32[2 window], of the last iterations, the oldest first. length: i32[], iterations of warm-up so far.
    over: bool[].
    """
    return {
        "errors": jnp.zeros(2 * window, jnp.float32),
        "length": jnp.zeros((), jnp.int32),
        "over": jnp.zeros((), jnp.bool_),
    }


def moved(warmup: dict[str, jax.Array], error: jax.Array, most: int) -> dict[str, jax.Array]:
    """One iteration on: over at the `most`-th, or where the last window's mean error is no lower than the one before.

    The actor is held still meanwhile, so rollouts stay of one policy and their errors can be compared (VAPO, Yue et al.
    2025, https://arxiv.org/abs/2504.05118, section 4.1). What is over stays as it is.

    Args:
      error: f32[], of the critic in this iteration.
    """
    errors = jnp.append(warmup["errors"][1:], error.astype(jnp.float32))
    length = warmup["length"] + 1
    before, last = jnp.mean(errors.reshape(2, -1), axis=1)
    flat = (length >= errors.size) & (last >= (1.0 - FALLS) * before)
    new = {"errors": errors, "length": length, "over": flat | (length >= most)}
    return jax.tree.map(lambda x, y: jnp.where(warmup["over"], x, y), warmup, new)


def said(warmup: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """For the metrics, f32[] each: `value_warmup`, iterations so far, and `value_warmup_over`."""
    return {
        "value_warmup": warmup["length"].astype(jnp.float32),
        "value_warmup_over": warmup["over"].astype(jnp.float32),
    }
