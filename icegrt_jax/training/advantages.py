"""From token rewards to what the policy learns from, by the estimator of the config."""

import jax
import jax.numpy as jnp
from flax import struct

from icegrt_jax.config.estimators import ESTIMATORS
from icegrt_jax.rl import (
    explained_variance,
    flat_groups,
    gae,
    group_advantages,
    group_std,
    leave_one_out,
    length_adaptive_lam,
    masked_mean,
    normalize_advantages,
    whitening_std,
)
from icegrt_jax.training.state import PPOConfig


class Learned(struct.PyTreeNode):
    """What a rollout teaches.

    advantages: f32[B, T], normalised. raw: f32[B, T], as they were before.
    returns: f32[B, T], the critic's targets; None without one.
    keep: bool[B], the responses that count in the policy's loss; None: all.
    unit: f32[], of rewards in the advantages: a KL in the loss is divided by it.
    metrics: f32[] each.
    """

    advantages: jax.Array
    raw: jax.Array
    returns: jax.Array | None
    keep: jax.Array | None
    unit: jax.Array
    metrics: dict[str, jax.Array]


def learned_from(
    config: PPOConfig,
    scores: jax.Array,
    rewards: jax.Array,
    values: jax.Array | None,
    mask: jax.Array,
    finished: jax.Array,
    unit: jax.Array,
) -> Learned:
    """Advantages and returns.

    Args:
      scores: f32[B], penalties taken off, the KL not: whether the answers to a prompt differ is a matter of these.
      rewards: f32[B, T], of tokens, the scores among them.
      values: f32[B, T], the critic's; None where the estimator has none.
      mask: bool[B, T]. finished: bool[B], True where a response ended by itself.
      unit: f32[], what the rewards have been divided by.
    """
    returns, keep, more = None, None, {}
    if config.estimator == "gae":
        assert values is not None, "gae has a critic"
        advantages, returns = _with_critic(config, rewards, values, mask)
        method = config.advantages
        more["explained_variance"] = explained_variance(values, returns, mask)
    elif config.estimator == "reinforce_pp":
        advantages, method = gae(rewards, jnp.zeros_like(rewards), mask, gamma=config.gamma, lam=1.0)[0], "whiten"
    else:
        advantages, method = _of_groups(config, rewards, mask), "none"
    if ESTIMATORS[config.estimator].grouped:
        flat = flat_groups(scores, config.group_size)
        more["group_std"] = group_std(scores, config.group_size)
        more["group_flat"] = jnp.mean(flat.astype(jnp.float32))
        keep = ~flat if config.filter_groups else None
    if config.filter_overlong:
        keep = finished if keep is None else keep & finished
    if keep is not None:
        more["kept"] = jnp.mean(keep.astype(jnp.float32))
    if method == "whiten":
        unit = unit * whitening_std(advantages, mask)
    metrics = {
        "advantage_mean": masked_mean(advantages, mask),
        "advantage_std": jnp.sqrt(masked_mean(jnp.square(advantages - masked_mean(advantages, mask)), mask)),
        **more,
    }
    normalized = normalize_advantages(advantages, mask, method, config.advantage_clip)
    return Learned(normalized, advantages, returns, keep, unit, metrics)


def _with_critic(
    config: PPOConfig, rewards: jax.Array, values: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """GAE; the critic's targets with a λ of their own where there is one (VAPO, arXiv 2504.05118, section 4.1)."""
    lam = length_adaptive_lam(mask, config.lam_alpha) if config.lam_alpha else config.lam
    advantages, returns = gae(rewards, values, mask, gamma=config.gamma, lam=lam)
    if config.value_lam >= 0:
        returns = gae(rewards, values, mask, gamma=config.gamma, lam=config.value_lam)[1]
    return advantages, returns


def _of_groups(config: PPOConfig, rewards: jax.Array, mask: jax.Array) -> jax.Array:
    """Each answer's return against the others to its prompt, at each of its tokens."""
    whole = jnp.sum(rewards, axis=1)
    if config.estimator == "rloo":
        of_answers = leave_one_out(whole, config.group_size)
    else:
        of_answers = group_advantages(whole, config.group_size, scale=config.estimator != "dr_grpo")
    return jnp.where(mask, of_answers[:, None], 0.0)
