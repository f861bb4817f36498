"""The metrics of an iteration of PPO from those of its updates: of the ones that were made, not of those skipped."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SKIPPED = ("skipped", "value_skipped")  # of a minibatch: whether the update was
OF_CRITIC = ("value_loss", "value_grad_norm", "value_clip_frac", "value_error", "value", "return")
OF_ITERATION = ("updates", "value_warmup", "value_warmup_over")  # the other metrics are means over updates


def means_over_updates(metrics: dict[str, jax.Array], made: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    """The metrics of `ppo_update`, see there.

    Args:
      metrics: f32[N] of each update, 0 where it was skipped.
      made: f32[N], 0 where the iteration had ended before it.

    Returns:
      The metrics, and whether the critic has learned, bool[].
    """
    metrics = dict(metrics)
    skipped = {name: metrics.pop(name) for name in SKIPPED if name in metrics}
    of_critic = made - skipped.get("value_skipped", skipped["skipped"])
    made = made - skipped["skipped"]
    counted = lambda name: jnp.maximum(jnp.sum(of_critic if name in OF_CRITIC else made), 1.0)
    means = {name: jnp.sum(x) / counted(name) for name, x in metrics.items()}
    means["updates"] = jnp.sum(made)
    means["ratio_max_dev"] = jnp.max(jnp.abs(metrics["ratio"] - 1.0) * made)
    means["first_ratio_error"] = metrics["ratio_error"][0]
    means["first_logprob_diff"] = metrics["logprob_diff"][0]
    return {**means, **skipped}, jnp.any(of_critic > 0)


def said(metrics: dict[str, Any], learned: Collection[str]) -> dict[str, Any]:
    """Metrics of an iteration, on the host, as a row has them: without the means over no update.

    Args:
      learned: the names of those of `ppo_update`.

    Returns:
      Also `skipped`, f32[updates], 1 where one of the actor or of the critic was.
    """
    metrics = dict(metrics)
    skipped = metrics.pop("skipped")
    of_critic = metrics.pop("value_skipped", skipped)
    made = {False: metrics["updates"], True: metrics["updates"] + np.sum(skipped) - np.sum(of_critic)}
    nothing = {name for name in learned if name not in OF_ITERATION and not made[name in OF_CRITIC]}
    kept = {name: value for name, value in metrics.items() if name not in nothing}
    return {**kept, "skipped": np.maximum(skipped, of_critic)}
