"""What each normalisation is given and what it makes of it, for the metrics: `scaling/score_before_mean` and so on."""

import jax
import jax.numpy as jnp

from icegrt_jax.rl import spread
from icegrt_jax.training.state import PPOConfig

GROUP = "scaling/"


def scaling_metrics(
    config: PPOConfig,
    mask: jax.Array,
    scores: tuple[jax.Array | None, jax.Array],
    rewards: tuple[jax.Array, jax.Array],
    advantages: tuple[jax.Array, jax.Array],
) -> dict[str, jax.Array]:
    """f32[] each: mean, std, min and max before and after, and the share that lies at a clip.

    Args:
      mask: bool[B, T].
      scores: f32[B], the reward model's raw ones (None: there is none), and what is made of all scores.
      rewards, advantages: f32[B, T], of tokens; rewards that are not whitened have no after.
    """
    # What is learned from is to be the same bits as without these numbers: XLA may fuse nothing of them into it.
    given = jax.lax.optimization_barrier((mask, scores, rewards, advantages))
    mask, scores, rewards, advantages = given
    every = jnp.ones(scores[1].shape, jnp.bool_)
    found: dict[str, jax.Array] = {}
    pairs = {"score": (every, *scores), "reward": (mask, *rewards), "advantage": (mask, *advantages)}
    for name, (valid, before, after) in pairs.items():
        if before is not None:
            found |= _named(f"{name}_before", before, valid)
        if name != "reward" or config.whiten_rewards:
            found |= _named(f"{name}_after", after, valid)
    if config.score_clip and not config.rewards and config.score_shape == "none":
        found[f"{GROUP}score_clipped"] = _share(scores[1], every, config.score_clip)
    if config.advantage_clip:
        found[f"{GROUP}advantage_clipped"] = _share(advantages[1], mask, config.advantage_clip)
    return found


def _named(name: str, x: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    return {f"{GROUP}{name}_{what}": value for what, value in spread(x, mask).items()}


def _share(x: jax.Array, mask: jax.Array, clip: float) -> jax.Array:
    """Of the valid elements those at the clip."""
    return spread((jnp.abs(x) >= clip).astype(jnp.float32), mask)["mean"]
