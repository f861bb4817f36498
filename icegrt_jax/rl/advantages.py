"""Generalized advantage estimation over responses with padding, and with holes between turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp

from icegrt_jax.rl.checks import Given, as_float32, as_mask
from icegrt_jax.rl.masked import valid_only

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def gae(
    rewards: Float[Given, "B T"],
    values: Float[Given, "B T"],
    mask: Bool[Given, "B T"],
    *,
    gamma: float = 1.0,
    lam: float | Float[Given, " B"] = 0.95,
    bootstrap: Float[Given, " B"] | None = None,
) -> tuple[Float[jax.Array, "B T"], Float[jax.Array, "B T"]]:
    """Advantages and returns, each f32[B, T], 0 where not `mask`.

    Schulman et al. 2016, https://arxiv.org/abs/1506.02438, eq. 16:
    delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lam * A_{t+1}.
    Returns are A_t + V_t, before any normalization of the advantages. Tokens that are not in the mask are no actions:
    t + 1 is the next token that is, so what others wrote between the turns of an answer is passed over.

    Args:
      rewards: f32[B, T]; one that belongs to a turn stands at its last token, and none where not `mask`.
      values: f32[B, T], the critic's at the token *before* which each action is taken.
      mask: bool[B, T], True at the tokens that the policy drew.
      gamma: discount.
      lam: 1 gives discounted reward sums minus values, 0 the one-step TD error; f32[B]: of each response its own.
      bootstrap: f32[B], value of the state after the last valid token: 0 where the response ended
        in EOS, the critic's estimate where it was cut off. None is 0 everywhere.
    """
    rewards, values = valid_only(mask, rewards=rewards, values=values)
    after = jnp.zeros_like(values[:, 0])
    if bootstrap is not None:
        (after,) = as_float32(bootstrap=bootstrap)
        chex.assert_shape(after, values.shape[:1])

    def backwards(later: tuple[jax.Array, jax.Array], now) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        (advantage, next_value), (reward, value, valid) = later, now
        delta = reward + gamma * next_value - value
        moved = delta + gamma * lam * advantage
        carried = jnp.where(valid, moved, advantage), jnp.where(valid, value, next_value)
        return carried, jnp.where(valid, moved, 0.0)

    start, steps = (jnp.zeros_like(after), after), (rewards.T, values.T, mask.T)
    _, advantages = jax.lax.scan(backwards, start, steps, reverse=True)  # [T, B]
    return advantages.T, advantages.T + values


def length_adaptive_lam(mask: Bool[Given, "B T"], alpha: float) -> Float[jax.Array, " B"]:
    """f32[B], 1 - 1 / (alpha * length), at least 0: the longer a response, the less its early tokens' credit fades.

    VAPO, Yue et al. 2025, https://arxiv.org/abs/2504.05118, section 4.2: the sum of GAE's weights, 1 / (1 - lam), is
    then alpha times the length.

    Args:
      mask: bool[B, T], True at the tokens that the policy drew.
      alpha: above 0; the paper has 0.05.
    """
    lengths = jnp.sum(as_mask(mask), axis=1, dtype=jnp.float32)
    return jnp.maximum(1.0 - 1.0 / (alpha * jnp.maximum(lengths, 1.0)), 0.0)
