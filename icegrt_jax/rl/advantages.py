"""Generalized advantage estimation over right-padded responses."""

import chex
import jax
import jax.numpy as jnp

from icegrt_jax.rl.checks import as_float32
from icegrt_jax.rl.masked import last_valid, valid_only


def gae(
    rewards: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Advantages and returns, each f32[B, T], 0 in the padding.

    Schulman et al. 2016, https://arxiv.org/abs/1506.02438, eq. 16:
    delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lam * A_{t+1}.
    Returns are A_t + V_t, before any normalization of the advantages.

    Args:
      rewards: f32[B, T].
      values: f32[B, T], the critic's at the token *before* which each action is taken.
      mask: bool[B, T], True up to and including the first EOS; contiguous from the left.
      gamma: discount.
      lam: 1 gives discounted reward sums minus values, 0 the one-step TD error.
      bootstrap: f32[B], value of the state after the last valid token: 0 where the response ended
        in EOS, the critic's estimate where it was cut off. None is 0 everywhere.
    """
    rewards, values = valid_only(mask, rewards=rewards, values=values)
    next_values = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    if bootstrap is not None:
        (bootstrap,) = as_float32(bootstrap=bootstrap)
        chex.assert_shape(bootstrap, values.shape[:1])
        next_values = jnp.where(last_valid(mask), bootstrap[:, None], next_values)
    deltas = rewards + gamma * next_values - values

    def backwards(advantage: jax.Array, delta: jax.Array) -> tuple[jax.Array, jax.Array]:
        advantage = delta + gamma * lam * advantage
        return advantage, advantage

    # Deltas in the padding are 0, so the sum starts from 0 at each row's own last token.
    _, advantages = jax.lax.scan(backwards, jnp.zeros_like(deltas[:, 0]), deltas.T, reverse=True)  # [T, B]
    return advantages.T, advantages.T + values
