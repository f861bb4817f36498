"""Several reward models' scores of the same responses as one, and how far they disagree.

Coste et al. 2023, https://arxiv.org/abs/2310.02743.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp

from icegrt_jax.rl.checks import Given, as_float32
from icegrt_jax.rl.rewards import divisor

if TYPE_CHECKING:
    from jaxtyping import Float


def on_one_scale(
    scores: Float[Given, "B M"], mean: Float[Given, " M"], std: Float[Given, " M"]
) -> Float[jax.Array, "B M"]:
    """f32[B, M], each member's scores less its own mean, over its own spread.

    A score is known up to a constant only, and members differ in how far they spread the same answers: as they are, the
    one that spreads them most would decide.

    Args:
      scores: f32[B, M], raw.
      mean, std: f32[M], of each member's scores of the same answers, those of the reference; no spread counts as 1.
    """
    scores, mean, std = as_float32(scores=scores, mean=mean, std=std)
    chex.assert_rank(scores, 2)
    chex.assert_shape([mean, std], scores.shape[1:])
    return (scores - mean[None]) / divisor(std)[None]


def ensemble_scores(scaled: Float[Given, "B M"], *, method: str = "mean", coef: float = 0.0) -> Float[jax.Array, " B"]:
    """f32[B], one score for each response.

    Methods: "mean"; "worst", the lowest of the members' (worst-case optimisation); "uncertainty", the mean less
    `coef` times the variance over the members, divided by M (uncertainty-weighted optimisation).

    Args:
      scaled: f32[B, M], on one scale.
    """
    (scaled,) = as_float32(scaled=scaled)
    chex.assert_rank(scaled, 2)
    if method == "mean":
        return jnp.mean(scaled, axis=1)
    if method == "worst":
        return jnp.min(scaled, axis=1)
    if method == "uncertainty":
        return jnp.mean(scaled, axis=1) - coef * jnp.square(ensemble_std(scaled))
    raise ValueError(f'method={method!r} does not combine scores; use "mean", "worst" or "uncertainty".')


def ensemble_std(scaled: Float[Given, "B M"]) -> Float[jax.Array, " B"]:
    """f32[B], population standard deviation over the members of what they say of a response."""
    (scaled,) = as_float32(scaled=scaled)
    return jnp.sqrt(jnp.mean(jnp.square(scaled - jnp.mean(scaled, axis=1, keepdims=True)), axis=1))
