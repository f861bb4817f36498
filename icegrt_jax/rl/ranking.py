"""Learning a reward model from ranked responses, and checking how far to trust it.

A prompt has K responses with ranks, 1 the best. Every two responses of unequal rank make a pair;
a tie says nothing and makes none. Means are over the pairs of a prompt first and over prompts then
(Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 1), so a prompt with many responses
weighs no more than one with two. A prompt without a pair does not count.

Two responses that read the same, token by token, have the same score whatever the model: no gradient, and
never in the right order. `same_responses` finds them, and the functions below leave such pairs out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp
from flax import struct

from icegrt_jax.rl.checks import Given, as_mask
from icegrt_jax.rl.masked import masked_mean, valid_count, valid_only

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num


def same_responses(tokens: Int[Given, "B K L"], mask: Bool[Given, "B K L"]) -> Bool[jax.Array, "B K K"]:
    """bool[B, K, K], True at [b, i, j] where responses i and j are the same tokens.

    Args:
      tokens: i32[B, K, L], as the reward model reads them.
      mask: bool[B, K, L], False on padding.
    """
    chex.assert_equal_shape([tokens, mask])
    read = jnp.where(as_mask(mask), tokens, -1)
    return jnp.all(read[:, :, None, :] == read[:, None, :, :], axis=-1)


def ranked_pairs(
    ranks: Num[Given, "B K"], valid: Bool[Given, "B K"], same: Bool[Given, "B K K"] | None = None
) -> Bool[jax.Array, "B K K"]:
    """bool[B, K, K], True at [b, i, j] where response i is ranked better than response j.

    Args:
      ranks: f32[B, K], lower is better, ties allowed.
      valid: bool[B, K], False where a prompt has fewer than K responses.
      same: bool[B, K, K], True where two responses are the same tokens: never a pair.
    """
    ranks, valid = jnp.asarray(ranks), as_mask(valid, "valid")
    chex.assert_equal_shape([ranks, valid])
    pairs = valid[:, :, None] & valid[:, None, :] & (ranks[:, :, None] < ranks[:, None, :])
    return pairs if same is None else pairs & ~as_mask(same, "same")


def count_ranked(
    ranks: Num[Given, "B K"], valid: Bool[Given, "B K"], same: Bool[Given, "B K K"] | None = None
) -> Float[jax.Array, ""]:
    """f32[], the prompts with at least one pair: `psum` it for `total` in the functions below."""
    return jnp.sum(jnp.any(ranked_pairs(ranks, valid, same), axis=(1, 2)), dtype=jnp.float32)


def _margins(
    scores: Float[Given, "B K"], ranks: Num[Given, "B K"], valid: Bool[Given, "B K"], same: Bool[Given, "B K K"] | None
) -> tuple[Float[jax.Array, "B K K"], Bool[jax.Array, "B K K"]]:
    """Score of i less score of j, f32[B, K, K], 0 where not a pair, and the pairs, bool[B, K, K]."""
    pairs = ranked_pairs(ranks, valid, same)
    (scores,) = valid_only(valid, scores=scores)
    return jnp.where(pairs, scores[:, :, None] - scores[:, None, :], 0.0), pairs


def _mean_over_prompts(
    x: Float[Given, "B K K"], pairs: Bool[Given, "B K K"], total: Num[Given, ""] | None
) -> Float[jax.Array, ""]:
    """f32[], mean of `x`, f32[B, K, K], over the pairs of each prompt, then over prompts that have any."""
    per_prompt = jnp.sum(x, axis=(1, 2), where=pairs) / jnp.maximum(
        jnp.sum(pairs, axis=(1, 2), dtype=jnp.float32), 1.0
    )  # [B]
    return masked_mean(per_prompt, jnp.any(pairs, axis=(1, 2)), total)


def ranking_loss(
    scores: Float[Given, "B K"],
    ranks: Num[Given, "B K"],
    valid: Bool[Given, "B K"],
    *,
    same: Bool[Given, "B K K"] | None = None,
    total: Num[Given, ""] | None = None,
) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
    """-log sigmoid(better score - worse score), averaged over pairs of a prompt, then over prompts.

    Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 1. With K = 2 this is the likelihood
    of Bradley and Terry.

    Args:
      scores: f32[B, K], of the reward model.
      ranks: f32[B, K], lower is better, ties allowed.
      valid: bool[B, K], False where a prompt has fewer than K responses.
      same: bool[B, K, K], True where two responses are the same tokens: never a pair (`same_responses`).
      total: prompts with a pair in the global batch (`count_ranked`).

    Returns:
      The loss, f32[], and metrics, f32[], averaged in the same way: `accuracy`, pairs whose better
      response has the strictly higher score; `margin`, better score - worse score.
    """
    margins, pairs = _margins(scores, ranks, valid, same)
    margin = jax.lax.stop_gradient(margins)
    metrics = {
        "accuracy": _mean_over_prompts((margin > 0.0).astype(jnp.float32), pairs, total),
        "margin": _mean_over_prompts(margin, pairs, total),
    }
    return _mean_over_prompts(-jax.nn.log_sigmoid(margins), pairs, total), metrics


def ranking_accuracy(
    scores: Float[Given, "B K"],
    ranks: Num[Given, "B K"],
    valid: Bool[Given, "B K"],
    *,
    same: Bool[Given, "B K K"] | None = None,
    total: Num[Given, ""] | None = None,
) -> Float[jax.Array, ""]:
    """f32[], the share of pairs whose better response has the strictly higher score, averaged as `ranking_loss` is.

    Args:
      scores: f32[B, K], of the reward model.
      ranks: f32[B, K], lower is better, ties allowed.
      valid: bool[B, K], False where a prompt has fewer than K responses.
      same: bool[B, K, K], True where two responses are the same tokens: never a pair.
      total: prompts with a pair in the global batch.
    """
    margins, pairs = _margins(scores, ranks, valid, same)
    return _mean_over_prompts((margins > 0.0).astype(jnp.float32), pairs, total)


def pair_probabilities(scores: Float[Given, "B K"], valid: Bool[Given, "B K"]) -> Float[jax.Array, "B K K"]:
    """f32[B, K, K], P(response i beats response j) = sigmoid(score i - score j), 0 where either is not valid.

    Args:
      scores: f32[B, K].
      valid: bool[B, K].
    """
    (scores,) = valid_only(valid, scores=scores)
    probabilities = jax.nn.sigmoid(scores[:, :, None] - scores[:, None, :])
    return jnp.where(valid[:, :, None] & valid[:, None, :], probabilities, 0.0)


class Calibration(struct.PyTreeNode):
    """Reliability of the reward model's confidence, bin by bin.

    ece: f32[], expected calibration error, the count-weighted mean of |accuracy - confidence|.
    confidence: f32[bins], mean predicted probability of the preferred response; 0 in an empty bin.
    accuracy: f32[bins], how often it is in fact ranked better; 0 in an empty bin.
    count: f32[bins], pairs.
    """

    ece: Float[jax.Array, ""]
    confidence: Float[jax.Array, " bins"]
    accuracy: Float[jax.Array, " bins"]
    count: Float[jax.Array, " bins"]


def calibration(
    scores: Float[Given, "B K"],
    ranks: Num[Given, "B K"],
    valid: Bool[Given, "B K"],
    bins: int = 10,
    *,
    same: Bool[Given, "B K K"] | None = None,
) -> Calibration:
    """How often the response the model prefers is the better one, against how sure the model is.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3, for the two-class question "which of
    this pair?": the confidence is max(p, 1 - p), in equal bins from 0.5 to 1. Each pair counts once,
    over the global batch; equal scores count as half right. Use held-out pairs.

    Args:
      scores: f32[B, K].
      ranks: f32[B, K], lower is better, ties allowed.
      valid: bool[B, K].
      bins: number of bins.
      same: bool[B, K, K], True where two responses are the same tokens: never a pair.
    """
    margins, pairs = _margins(scores, ranks, valid, same)
    weights = pairs.astype(jnp.float32)
    confidence = jax.nn.sigmoid(jnp.abs(margins))
    correct = 0.5 * (jnp.sign(margins) + 1.0)
    # A confidence of exactly 1 belongs to the last bin, not to one past it.
    bin_of = jnp.minimum(((confidence - 0.5) * (2 * bins)).astype(jnp.int32), bins - 1)

    def bin_sums(x: jax.Array) -> jax.Array:  # [B, K, K] to [bins]
        return jnp.zeros_like(x, shape=(bins,)).at[bin_of].add(x * weights)

    pairs_in_bin, confidence, correct = bin_sums(weights), bin_sums(confidence), bin_sums(correct)
    return Calibration(
        ece=jnp.sum(jnp.abs(correct - confidence)) / valid_count(pairs),
        confidence=confidence / jnp.maximum(pairs_in_bin, 1.0),
        accuracy=correct / jnp.maximum(pairs_in_bin, 1.0),
        count=pairs_in_bin,
    )
