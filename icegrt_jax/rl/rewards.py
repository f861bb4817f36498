"""From scores, one per response, to rewards, one per token.

These functions see the global batch and run under `jax.jit`; running moments of a part of the
batch would differ from device to device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp
from flax import struct

from icegrt_jax.rl.checks import Given, as_float32, as_mask
from icegrt_jax.rl.masked import last_valid, masked_mean, masked_sum, valid_only

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Num

# Scores with less spread than this are all the same score: dividing by it would only amplify rounding.
_SMALLEST_STD = 1e-6


def token_rewards(
    scores: Float[Given, " B"],
    kl: Float[Given, "B T"],
    mask: Bool[Given, "B T"],
    *,
    kl_coef: float | Float[Given, ""],
) -> Float[jax.Array, "B T"]:
    """f32[B, T], -kl_coef * kl at every token, plus the score at the last one; 0 in the padding.

    Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, eq. 2. A row without a valid token gets
    no reward at all.

    Args:
      scores: f32[B], scaled and penalized as configured.
      kl: f32[B, T], estimate of KL(policy || reference) at each token.
      mask: bool[B, T], True up to and including the first EOS.
      kl_coef: scalar; 0 when the KL is in the loss instead.
    """
    (scores,) = as_float32(scores=scores)
    (kl,) = valid_only(mask, kl=kl)
    chex.assert_shape(scores, kl.shape[:1])
    return -kl_coef * kl + jnp.where(last_valid(mask), scores[:, None], 0.0)


class ScoreStats(struct.PyTreeNode):
    """What is known about raw scores: moments of all so far, and of the reference's responses.

    count: f32[], scores seen. mean: f32[]. m2: f32[], their summed squared distance from the mean.
    ref_mean, ref_std: f32[], moments of the scores of responses sampled from the reference.
    """

    count: Float[jax.Array, ""]
    mean: Float[jax.Array, ""]
    m2: Float[jax.Array, ""]
    ref_mean: Float[jax.Array, ""]
    ref_std: Float[jax.Array, ""]

    @classmethod
    def create(cls, ref_mean: float | Float[Given, ""] = 0.0, ref_std: float | Float[Given, ""] = 1.0) -> ScoreStats:
        """Nothing seen yet; `ref_mean` and `ref_std` as measured, if scaling uses them."""
        # Five arrays of their own: a donated state may not hold one buffer twice.
        return cls(*(jnp.array(x, jnp.float32) for x in (0.0, 0.0, 0.0, ref_mean, ref_std)))

    @property
    def std(self) -> Float[jax.Array, ""]:
        """f32[], population standard deviation of the scores seen; 0 before any."""
        return jnp.sqrt(self.m2 / jnp.maximum(self.count, 1.0))

    def update(self, scores: Float[Given, " B"], known: Bool[Given, " B"] | None = None) -> ScoreStats:
        """The moments with `scores`, f32[B], merged in.

        Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
        sample variances", eq. 2.1: no sum of squares, hence no cancellation.

        Args:
          known: bool[B], which of them count; None: all.
        """
        (scores,) = as_float32(scores=scores)
        chex.assert_rank(scores, 1)
        if known is not None:
            return self._update_known(scores, as_mask(known, "known"))
        batch_mean = jnp.mean(scores)
        batch_m2 = jnp.sum(jnp.square(scores - batch_mean))
        delta = batch_mean - self.mean
        count = self.count + scores.size
        return self.replace(
            count=count,
            mean=self.mean + delta * scores.size / count,
            m2=self.m2 + batch_m2 + jnp.square(delta) * self.count * scores.size / count,
        )

    def _update_known(self, scores: Float[Given, " B"], known: Bool[Given, " B"]) -> ScoreStats:
        """`update` with the known scores only; as it was where there is none."""
        batch_count = masked_sum(jnp.ones_like(scores), known)
        batch_mean = masked_mean(scores, known)
        batch_m2 = masked_sum(jnp.square(scores - batch_mean), known)
        delta = batch_mean - self.mean
        count = self.count + batch_count
        share = batch_count / jnp.maximum(count, 1.0)
        return self.replace(
            count=count,
            mean=self.mean + delta * share,
            m2=self.m2 + batch_m2 + jnp.square(delta) * self.count * share,
        )


def scale_scores(
    scores: Float[Given, " B"],
    stats: ScoreStats,
    *,
    method: str = "none",
    clip: float = 0.0,
    known: Bool[Given, " B"] | None = None,
) -> tuple[Float[jax.Array, " B"], ScoreStats]:
    """Scores in a size the policy gradient and the KL penalty can live with, f32[B], and new stats.

    Methods: "none"; "reference", (s - ref_mean) / ref_std, as Ziegler et al. 2019 (arXiv 1909.08593,
    section 2) normalize the reward model; "running_std", s / std; "running_mean_std",
    (s - mean) / std, as PPO-max (Zheng et al. 2023, arXiv 2307.04964). Running moments include this
    batch and are kept whatever the method, so they can be logged. Where scores have no spread
    the std is taken as 1.

    Args:
      scores: f32[B], raw, of the global batch.
      stats: of the scores before this batch.
      method: as above.
      clip: limit the scaled scores to [-clip, clip]; 0 for no limit.
      known: bool[B], False where there is no score: it is left out of the moments, and 0 when scaled. None: all are.
    """
    (scores,) = as_float32(scores=scores)
    stats = stats.update(scores, known)
    if method == "none":
        scaled = scores
    elif method == "reference":
        scaled = (scores - stats.ref_mean) / divisor(stats.ref_std)
    elif method == "running_std":
        scaled = scores / divisor(stats.std)
    elif method == "running_mean_std":
        scaled = (scores - stats.mean) / divisor(stats.std)
    else:
        raise ValueError(
            f'method={method!r} does not scale scores; use "none", "reference", "running_std" or "running_mean_std".'
        )
    scaled = jnp.clip(scaled, -clip, clip) if clip else scaled
    return (scaled if known is None else jnp.where(known, scaled, 0.0)), stats


def scale_by_source(
    scores: Float[Given, " B"],
    sources: Num[Given, " B"],
    stats: dict[str, ScoreStats],
    *,
    method: str,
    clip: float = 0.0,
) -> tuple[Float[jax.Array, " B"], dict[str, ScoreStats]]:
    """`scale_scores` of the responses to each source's prompts by that source's own moments, f32[B], and new stats.

    A source whose answers have high scores, or scores that lie far apart, is else all that the policy learns from.

    Args:
      scores: f32[B], raw, of the global batch.
      sources: i32[B], of which source each is, counted in the order of the names.
      stats: {source: of its scores before this batch}.
      method, clip: as of `scale_scores`.
    """
    (scores,) = as_float32(scores=scores)
    sources = jnp.asarray(sources)
    chex.assert_equal_shape([scores, sources])
    total, moved = jnp.zeros_like(scores), {}
    for number, name in enumerate(sorted(stats)):
        own = sources == number
        scaled, moved[name] = scale_scores(scores, stats[name], method=method, clip=clip, known=own)
        total = total + scaled
    return total, moved


def divisor(std: Float[Given, "*S"]) -> Float[jax.Array, "*S"]:
    """`std`, or 1 where the scores have no spread."""
    return jnp.where(std > _SMALLEST_STD, std, 1.0)


def eos_penalty(scores: Float[Given, " B"], finished: Bool[Given, " B"], penalty: float) -> Float[jax.Array, " B"]:
    """f32[B], scores less `penalty` for each response that was cut off before its EOS.

    Args:
      scores: f32[B].
      finished: bool[B], True where the response ends in EOS.
      penalty: positive, in units of the scores given.
    """
    (scores,) = as_float32(scores=scores)
    finished = as_mask(finished, "finished")
    chex.assert_equal_shape([scores, finished])
    return jnp.where(finished, scores, scores - penalty)


def length_penalty(
    scores: Float[Given, " B"], lengths: Num[Given, " B"], coef: float, target: float
) -> Float[jax.Array, " B"]:
    """f32[B], scores less `coef` for every token beyond `target`.

    Args:
      scores: f32[B].
      lengths: i32[B], response tokens, EOS included.
      coef: positive, score per token.
      target: length, in tokens, up to which a response costs nothing.
    """
    (scores,) = as_float32(scores=scores)
    lengths = jnp.asarray(lengths).astype(jnp.float32)
    chex.assert_equal_shape([scores, lengths])
    return scores - coef * jnp.maximum(lengths - target, 0.0)
