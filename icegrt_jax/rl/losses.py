"""Losses of PPO and of supervised fine-tuning, each a mean over valid tokens.

Every loss takes `total`, the number of valid tokens in the global batch, when it sees only a part
of it; loss, gradients and metrics are then shares that a `psum` adds up (see `masked`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from icegrt_jax.rl.aggregation import aggregate
from icegrt_jax.rl.checks import Given
from icegrt_jax.rl.kl import kl_estimate
from icegrt_jax.rl.masked import masked_mean, masked_var, valid_only

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Num


def ppo_policy_loss(
    logprobs: Float[Given, "B T"],
    old_logprobs: Float[Given, "B T"],
    advantages: Float[Given, "B T"],
    mask: Bool[Given, "B T"],
    *,
    cliprange: float,
    cliprange_high: float | None = None,
    dual_clip: float = 0.0,
    total: Num[Given, ""] | None = None,
    weights: Float[Given, "B T"] | None = None,
    sequence_log_ratio: Float[Given, "B T"] | None = None,
) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
    """Clipped surrogate loss of PPO, averaged over response tokens or added up by `weights`.

    Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7. The asymmetric clip is the
    clip-higher of DAPO, https://arxiv.org/abs/2503.14476; the dual clip is that of Ye et al. 2020,
    https://arxiv.org/abs/1912.09729: where the advantage is negative, the loss is at most
    dual_clip * |advantage|, so a token the policy now likes far too much cannot dominate the batch.

    Args:
      logprobs: f32[B, T], log-probability of each token under the current policy.
      old_logprobs: f32[B, T], the same under the policy that sampled it.
      advantages: f32[B, T], held constant.
      mask: bool[B, T], True up to and including the first EOS.
      cliprange: the ratio is clipped to [1 - cliprange, 1 + cliprange_high].
      cliprange_high: None for the same as `cliprange`.
      dual_clip: above 1, or 0 for off.
      total: valid tokens in the global batch.
      weights: f32[B, T], see `loss_weights`; None: the mean over tokens.
      sequence_log_ratio: f32[B, T], see `sequence_means`: the ratio is then the whole answer's, its gradient spread
        over the answer's tokens (GSPO-token, https://arxiv.org/abs/2507.18071, eq. 13 and 14).

    Returns:
      The loss, f32[], and metrics, each the mean over tokens, f32[]: `ratio`; `clip_frac`, tokens whose
      clipped loss is the larger; `approx_kl`, KL(old || current) by k3; and with `dual_clip`,
      `dual_clip_frac`, tokens limited by it.
    """
    if dual_clip and dual_clip <= 1.0:
        raise ValueError(f"dual_clip={dual_clip} would cut into the trust region; use a value above 1, or 0 for off.")
    logprobs, old_logprobs, advantages = valid_only(
        mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages
    )
    advantages, old_logprobs = jax.lax.stop_gradient((advantages, old_logprobs))
    log_ratio = logprobs - old_logprobs
    if sequence_log_ratio is not None:  # its value, and the gradient of the token's own log-prob
        (of_sequence,) = valid_only(mask, sequence_log_ratio=sequence_log_ratio)
        log_ratio = jax.lax.stop_gradient(of_sequence - logprobs) + logprobs
    ratio = jnp.exp(log_ratio)
    high = cliprange if cliprange_high is None else cliprange_high
    losses, cut = _clipped(ratio, advantages, 1.0 - cliprange, 1.0 + high, dual_clip)
    metrics = {
        "ratio": ratio,
        "clip_frac": cut["clip_frac"],
        "approx_kl": kl_estimate(old_logprobs, logprobs, "k3"),
        **cut,
    }
    metrics = {name: masked_mean(jax.lax.stop_gradient(x), mask, total) for name, x in metrics.items()}
    return aggregate(losses, mask, total, weights), metrics


def _clipped(
    ratio: Float[Given, "B T"], advantages: Float[Given, "B T"], low: float, high: float, dual_clip: float
) -> tuple[Float[jax.Array, "B T"], dict[str, Float[jax.Array, "B T"]]]:
    """The loss of each token, and which were cut: `clip_frac` and with `dual_clip` `dual_clip_frac`."""
    unclipped = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, low, high)
    losses = jnp.maximum(unclipped, clipped)
    cut = {"clip_frac": (clipped > unclipped).astype(jnp.float32)}
    if dual_clip:
        limit = jnp.where(advantages < 0.0, -dual_clip * advantages, jnp.inf)
        cut["dual_clip_frac"] = (losses > limit).astype(jnp.float32)
        losses = jnp.minimum(losses, limit)
    return losses, cut


def ppo_value_loss(
    values: Float[Given, "B T"],
    old_values: Float[Given, "B T"],
    returns: Float[Given, "B T"],
    mask: Bool[Given, "B T"],
    *,
    cliprange_value: float,
    total: Num[Given, ""] | None = None,
) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
    """Half the squared error of the critic, clipped as in PPO, averaged over response tokens.

    The value may leave the old one by `cliprange_value` before the loss goes flat, and the worse of
    clipped and unclipped counts (openai/baselines, `baselines/ppo2/model.py`; lm-human-preferences,
    `train_policy.py`, `loss`).

    Args:
      values: f32[B, T], of the current critic.
      old_values: f32[B, T], of the critic at rollout.
      returns: f32[B, T], held constant.
      mask: bool[B, T], True up to and including the first EOS.
      cliprange_value: 0 for no clipping.
      total: valid tokens in the global batch.

    Returns:
      The loss, f32[], and metrics, each the mean over tokens, f32[]: `value_clip_frac`, tokens whose
      clipped error is the larger; `value_error`, squared error without clipping; `value`; `return`.
    """
    values, old_values, returns = valid_only(mask, values=values, old_values=old_values, returns=returns)
    old_values, returns = jax.lax.stop_gradient((old_values, returns))
    errors = jnp.square(values - returns)
    clipped_errors = errors
    if cliprange_value:
        # Between the bounds it is the value to the last bit, so that nothing counts as clipped by rounding.
        clipped_values = jnp.clip(values, old_values - cliprange_value, old_values + cliprange_value)
        clipped_errors = jnp.square(clipped_values - returns)
    metrics = {
        "value_clip_frac": (clipped_errors > errors).astype(jnp.float32),
        "value_error": errors,
        "value": values,
        "return": returns,
    }
    metrics = {name: masked_mean(jax.lax.stop_gradient(x), mask, total) for name, x in metrics.items()}
    return 0.5 * masked_mean(jnp.maximum(errors, clipped_errors), mask, total), metrics


def nll_loss(
    logprobs: Float[Given, "B L"], mask: Bool[Given, "B L"], total: Num[Given, ""] | None = None
) -> Float[jax.Array, ""]:
    """f32[], mean negative log-likelihood of the tokens trained on.

    Args:
      logprobs: f32[B, L], log-probability of each target token.
      mask: bool[B, L], True at tokens that count: the assistant's, EOS included.
      total: valid tokens in the global batch.
    """
    return -masked_mean(logprobs, mask, total)


def explained_variance(
    values: Float[Given, "B T"], returns: Float[Given, "B T"], mask: Bool[Given, "B T"]
) -> Float[jax.Array, ""]:
    """f32[], 1 - var(returns - values) / var(returns): 1 is a perfect critic, 0 no better than a constant.

    For the global batch; returns without spread have nothing to explain and give 0.

    Args:
      values: f32[B, T].
      returns: f32[B, T].
      mask: bool[B, T].
    """
    values, returns = valid_only(mask, values=values, returns=returns)
    variance = masked_var(returns, mask)
    spread = variance > 0.0
    unexplained = masked_var(returns - values, mask) / jnp.where(spread, variance, 1.0)
    return jnp.where(spread, 1.0 - unexplained, 0.0)
