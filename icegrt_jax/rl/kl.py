"""How far the policy has moved from the reference: three estimators from samples, and the KL itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp

from icegrt_jax.rl.checks import Given, as_float32, as_mask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def exact_kl(logits: Float[Given, "*S V"], ref_logits: Float[Given, "*S V"]) -> Float[jax.Array, "*S"]:
    """f32[...], KL(policy || reference) of the two next-token distributions at each position.

    The sum over the whole vocabulary, so it has no sampling noise but needs both sets of logits;
    call it on chunks of positions, never on the whole batch at once.

    Args:
      logits: f32[..., V], already divided by the sampling temperature.
      ref_logits: f32[..., V], likewise. Logits of -inf are tokens that cannot occur.
    """
    logits, ref_logits = as_float32(logits=logits, ref_logits=ref_logits)
    chex.assert_equal_shape([logits, ref_logits])
    logprobs = jax.nn.log_softmax(logits)
    log_ratio = logprobs - jax.nn.log_softmax(ref_logits)
    # A token of probability 0 adds nothing, but 0 * log 0 computes to NaN.
    log_ratio = jnp.where(jnp.isneginf(logprobs), 0.0, log_ratio)
    return jnp.sum(jnp.exp(logprobs) * log_ratio, axis=-1)


def kl_estimate(
    logprobs: Float[Given, "*L"],
    ref_logprobs: Float[Given, "*L"],
    kind: str = "k1",
    mask: Bool[Given, "*S"] | None = None,
) -> Float[jax.Array, "*S"]:
    """f32[...], a per-token estimate of KL(policy || reference) from tokens the policy sampled.

    Schulman 2020, http://joschu.net/blog/kl-approx.html, with log r = ref_logprobs - logprobs:
    k1 = -log r (unbiased, high variance, may be negative), k2 = (log r)^2 / 2 (biased, never
    negative), k3 = r - 1 - log r (unbiased, never negative).

    An estimate of the value is not one of the gradient (Liu et al. 2025, arXiv 2510.01555; Tang and Munos 2025,
    arXiv 2512.21852). Taken off the reward, k1 has the gradient of the KL. As a loss term, differentiated, k2 and exact
    have it, k3 has that of KL(reference || policy), and k1 has none in expectation.

    Args:
      logprobs: f32[...], log-probabilities of the sampled tokens; for kind "exact" the logits, f32[..., V].
      ref_logprobs: the same under the reference.
      kind: "k1", "k2", "k3" or "exact".
      mask: bool[...], optional. Where False the result and its gradient are 0 whatever the
        padding holds. Without it, mask the inputs and not only the result: k3 takes an exponential,
        and an overflow behind a mask still makes the gradient NaN.
    """
    logprobs, ref_logprobs = as_float32(logprobs=logprobs, ref_logprobs=ref_logprobs)
    chex.assert_equal_shape([logprobs, ref_logprobs])
    if mask is not None:
        where = as_mask(mask)[..., None] if kind == "exact" else as_mask(mask)
        chex.assert_equal_shape_prefix([where, logprobs], where.ndim - (kind == "exact"))
        logprobs, ref_logprobs = (jnp.where(where, x, 0.0) for x in (logprobs, ref_logprobs))
    if kind == "exact":
        return exact_kl(logprobs, ref_logprobs)
    log_r = ref_logprobs - logprobs
    if kind == "k1":
        return -log_r
    if kind == "k2":
        return 0.5 * jnp.square(log_r)
    if kind == "k3":
        return jnp.expm1(log_r) - log_r
    raise ValueError(f'kind={kind!r} is no KL estimator; use "k1", "k2", "k3" or "exact".')
