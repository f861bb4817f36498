"""Means, variances and whitening over the valid elements of a batch.

Reductions are over the *global* batch. Under `jax.jit` the arrays are the global batch and
nothing needs to be said. Where a function runs once per device on that device's part, the caller
counts the valid elements of all parts once and passes the count as `total`; a mean is then this
device's share of the global mean, and a `psum` of shares is the mean itself. The same holds for
losses, their gradients and their metrics. Averaging per-device means instead would give the tokens
of a device with little padding less weight than those of a device with much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp

from icegrt_jax.rl.checks import Given, as_float32, as_mask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Num

_VARIANCE_EPS = 1e-8


def valid_only(mask: Bool[Given, "*S"], **arrays: Float[Given, "*S"]) -> list[Float[jax.Array, "*S"]]:
    """The arrays in float32 with zeros wherever `mask` is False, all of one shape.

    Losses pass their inputs through this first: `0 * inf` is NaN, so garbage in the padding must
    go before any arithmetic or it returns in the gradient.
    """
    mask = as_mask(mask)
    converted = as_float32(**arrays)
    chex.assert_equal_shape([mask, *converted])
    return [jnp.where(mask, x, 0.0) for x in converted]


def last_valid(mask: Bool[Given, "B T"]) -> Bool[jax.Array, "B T"]:
    """bool[B, T], True at the last True of each row of `mask`, bool[B, T]; empty rows stay False."""
    mask = as_mask(mask)
    chex.assert_rank(mask, 2)
    positions = jax.lax.broadcasted_iota(jnp.int32, mask.shape, 1)
    last = jnp.max(jnp.where(mask, positions, -1), axis=1, keepdims=True)  # [B, 1]
    return positions == last


def valid_count(mask: Bool[Given, " ..."], total: Num[Given, ""] | None = None) -> Float[jax.Array, ""]:
    """f32[], `total` if given, else the number of True in `mask`; at least 1, so it can divide."""
    if total is None:
        total = jnp.sum(as_mask(mask), dtype=jnp.float32)
    return jnp.maximum(jnp.asarray(total).astype(jnp.float32), 1.0)


def masked_sum(x: Float[Given, "*S"], mask: Bool[Given, "*S"]) -> Float[jax.Array, ""]:
    """f32[], the sum of `x`, f32[...], where `mask`, bool[...], is True."""
    (x,) = valid_only(mask, x=x)
    return jnp.sum(x)


def masked_mean(
    x: Float[Given, "*S"], mask: Bool[Given, "*S"], total: Num[Given, ""] | None = None
) -> Float[jax.Array, ""]:
    """f32[], the mean of `x` where `mask` is True; 0 when nothing is.

    Args:
      x: f32[...].
      mask: bool[...].
      total: valid elements in the global batch, for this device's share of the global mean.
    """
    return masked_sum(x, mask) / valid_count(mask, total)


def masked_var(
    x: Float[Given, "*S"],
    mask: Bool[Given, "*S"],
    total: Num[Given, ""] | None = None,
    mean: Float[Given, ""] | None = None,
) -> Float[jax.Array, ""]:
    """f32[], the population variance (divided by n) of `x` where `mask` is True.

    Args:
      x: f32[...].
      mask: bool[...].
      total: valid elements in the global batch, for this device's share of the global variance.
      mean: f32[], the mean to measure from; needed with `total`, where it is the global mean,
        which a single device cannot know.
    """
    if mean is None:
        if total is not None:
            raise ValueError("masked_var got total without mean; psum masked_mean(x, mask, total) and pass it.")
        mean = masked_mean(x, mask)
    (x,) = valid_only(mask, x=x)
    return masked_mean(jnp.square(x - mean), mask, total)


def spread(x: Float[Given, "*S"], mask: Bool[Given, "*S"]) -> dict[str, Float[jax.Array, ""]]:
    """Of the valid elements `mean`, `std` (population), `min` and `max`, f32[] each; 0 where there is none.

    Args:
      x: f32[...], of the global batch.
      mask: bool[...].
    """
    (valid,) = valid_only(mask, x=x)
    some = jnp.any(mask)
    ends = {
        "min": jnp.min(jnp.where(mask, valid, jnp.inf), initial=jnp.inf),
        "max": jnp.max(jnp.where(mask, valid, -jnp.inf), initial=-jnp.inf),
    }
    ends = {name: jnp.where(some, end, 0.0) for name, end in ends.items()}
    return {"mean": masked_mean(x, mask), "std": jnp.sqrt(masked_var(x, mask)), **ends}


def _moments(
    x: Float[Given, "*S"], mask: Bool[Given, "*S"], total: Num[Given, ""] | None, axis_name: str | None
) -> tuple[Float[jax.Array, ""], Float[jax.Array, ""]]:
    """Mean and population variance, each f32[], over all devices of `axis_name` if it is given."""
    over_devices = (lambda share: jax.lax.psum(share, axis_name)) if axis_name else (lambda share: share)
    if total is None:
        total = over_devices(masked_sum(jnp.ones_like(x, dtype=jnp.float32), mask))
    mean = over_devices(masked_mean(x, mask, total))
    return mean, over_devices(masked_var(x, mask, total, mean))


def whiten(
    x: Float[Given, "*S"],
    mask: Bool[Given, "*S"],
    *,
    shift_mean: bool = True,
    total: Num[Given, ""] | None = None,
    axis_name: str | None = None,
) -> Float[jax.Array, "*S"]:
    """f32[...], `x` scaled to unit variance over the valid elements of the global batch, 0 elsewhere.

    As in lm-human-preferences (`lm_human_preferences/utils/core.py`, `whiten`), with the mask it
    lacks: population variance, 1e-8 added to it.

    Args:
      x: f32[...].
      mask: bool[...].
      shift_mean: also subtract the mean. False keeps it, as for rewards, whose sign matters.
      total: valid elements in the global batch; counted here when not given.
      axis_name: the mapped axis over which the batch is split, if it is.
    """
    mean, var = _moments(x, mask, total, axis_name)
    (x,) = valid_only(mask, x=x)
    whitened = (x - mean) * jax.lax.rsqrt(var + _VARIANCE_EPS)
    if not shift_mean:
        whitened = whitened + mean
    return jnp.where(mask, whitened, 0.0)


def whitening_std(
    x: Float[Given, "*S"], mask: Bool[Given, "*S"], *, axis_name: str | None = None
) -> Float[jax.Array, ""]:
    """f32[], what `whiten` divides by: a coefficient that is divided by it as well keeps its meaning.

    Args:
      x: f32[...].
      mask: bool[...].
      axis_name: the mapped axis over which the batch is split, if it is.
    """
    return jnp.sqrt(_moments(x, mask, None, axis_name)[1] + _VARIANCE_EPS)


def normalize_advantages(
    advantages: Float[Given, "B T"],
    mask: Bool[Given, "B T"],
    method: str = "whiten",
    clip: float = 0.0,
    axis_name: str | None = None,
) -> Float[jax.Array, "B T"]:
    """f32[B, T], advantages normalized over all valid tokens of the global batch, 0 elsewhere.

    Args:
      advantages: f32[B, T].
      mask: bool[B, T].
      method: "whiten" (zero mean, unit variance), "mean" (zero mean) or "none".
      clip: limit the result to [-clip, clip]; 0 for no limit.
      axis_name: the mapped axis over which the batch is split, if it is.
    """
    if method == "whiten":
        normalized = whiten(advantages, mask, axis_name=axis_name)
    elif method == "mean":
        mean, _ = _moments(advantages, mask, None, axis_name)
        normalized = jnp.where(mask, valid_only(mask, advantages=advantages)[0] - mean, 0.0)
    elif method == "none":
        (normalized,) = valid_only(mask, advantages=advantages)
    else:
        raise ValueError(f'method={method!r} does not normalize advantages; use "whiten", "mean" or "none".')
    return jnp.clip(normalized, -clip, clip) if clip else normalized
