"""Advantages without a critic: an answer's return against those of the other answers to the same prompt.

The answers to a prompt stand one after another, `group` of them; an answer's return is its score less penalties, and
less the KL penalty of all its tokens where that is in the reward. Its advantage is that of each of its tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp

from icegrt_jax.rl.checks import Given, as_float32

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

# Answers whose returns lie nearer together say nothing of which is better: dividing by it would amplify rounding.
_SMALLEST_SPREAD = 1e-5


def leave_one_out(returns: Float[Given, " B"], group: int) -> Float[jax.Array, " B"]:
    """f32[B], each return less the mean of the other ones to its prompt.

    RLOO, Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, section 3.2: a baseline that does not depend on the
    answer itself leaves the gradient unbiased.

    Args:
      returns: f32[B], groups one after another.
      group: answers to a prompt, 2 or more.
    """
    grouped = _grouped(returns, group)
    others = (jnp.sum(grouped, axis=1, keepdims=True) - grouped) / (group - 1)
    return (grouped - others).reshape(-1)


def group_advantages(returns: Float[Given, " B"], group: int, *, scale: bool) -> Float[jax.Array, " B"]:
    """f32[B], each return less the mean of its group, and with `scale` divided by the group's deviation.

    With `scale` GRPO, Shao et al. 2024, https://arxiv.org/abs/2402.03300, section 4.1.2, and GSPO, Zheng et al. 2025,
    https://arxiv.org/abs/2507.18071, eq. 6 (population deviation); without it Dr. GRPO, Liu et al. 2025,
    https://arxiv.org/abs/2503.20783, section 3.2, where dividing is found to weigh prompts by how hard they are.
    A group without spread gets 0.

    Args:
      returns: f32[B], groups one after another.
      group: answers to a prompt, 2 or more.
      scale: divide by the deviation.
    """
    grouped = _grouped(returns, group)
    centred = grouped - jnp.mean(grouped, axis=1, keepdims=True)
    if scale:
        std = jnp.sqrt(jnp.mean(jnp.square(centred), axis=1, keepdims=True))
        centred = centred / jnp.where(_flat(grouped), 1.0, std)
    return jnp.where(_flat(grouped), 0.0, centred).reshape(-1)


def group_std(scores: Float[Given, " B"], group: int) -> Float[jax.Array, ""]:
    """f32[], the mean over prompts of the deviation (population) among the scores of the answers to one.

    Args:
      scores: f32[B], groups one after another.
      group: answers to a prompt, 2 or more.
    """
    return jnp.mean(jnp.std(_grouped(scores, group), axis=1))


def flat_groups(scores: Float[Given, " B"], group: int) -> Bool[jax.Array, " B"]:
    """bool[B], True for the answers to prompts whose answers all have one score: they say nothing of which is better.

    DAPO, Yu et al. 2025, https://arxiv.org/abs/2503.14476, section 3.2, leaves them out of the update.

    Args:
      scores: f32[B], groups one after another.
      group: answers to a prompt, 2 or more.
    """
    grouped = _grouped(scores, group)
    return jnp.broadcast_to(_flat(grouped), grouped.shape).reshape(-1)


def _grouped(returns: Float[Given, " B"], group: int) -> Float[jax.Array, "N G"]:
    """The returns, a row for each prompt."""
    (returns,) = as_float32(returns=returns)
    chex.assert_rank(returns, 1)
    if group < 2:
        raise ValueError(f"group={group}: an answer alone has no others to be better than; use 2 or more.")
    if returns.size % group:
        raise ValueError(f"{returns.size} answers do not divide into groups of {group}; use a multiple of {group}.")
    return returns.reshape(-1, group)


def _flat(grouped: Float[Given, "N G"]) -> Bool[jax.Array, "N 1"]:
    """Whether a group's returns are all the same."""
    spread = jnp.max(grouped, axis=1, keepdims=True) - jnp.min(grouped, axis=1, keepdims=True)
    return spread <= _SMALLEST_SPREAD
