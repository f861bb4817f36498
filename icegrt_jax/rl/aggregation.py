"""How the losses of single tokens become one number, and one ratio for a whole answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from icegrt_jax.rl.checks import Given, as_mask
from icegrt_jax.rl.masked import masked_mean, masked_sum, valid_count, valid_only

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num

METHODS = ("token", "sequence", "constant")


def loss_weights(
    mask: Bool[Given, "B T"],
    method: str = "token",
    *,
    keep: Bool[Given, " B"] | None = None,
    total: Num[Given, ""] | None = None,
) -> Float[jax.Array, "B T"]:
    """f32[B, T], what each token's loss is multiplied by; the sum is the loss. 0 where not `mask` or not `keep`.

    Methods: "token", the mean over all tokens (DAPO, https://arxiv.org/abs/2503.14476, eq. 8); "sequence", the mean
    over each answer's tokens, then over answers (GRPO, https://arxiv.org/abs/2402.03300, eq. 3), in which a token of a
    long answer counts less; "constant", the sum over each answer's tokens divided by the longest length that an answer
    may have, then the mean over answers (Dr. GRPO, https://arxiv.org/abs/2503.20783, section 3.2).

    Args:
      mask: bool[B, T], True up to and including the first EOS; T is the longest length that an answer may have.
      method: as above.
      keep: bool[B], the answers that count; None: all.
      total: `loss_count` of the global batch, for the weights of a part of it.
    """
    counted = _counted(mask, keep)
    each = jnp.ones(counted.shape, jnp.float32)
    if method == "sequence":
        each = each / jnp.maximum(jnp.sum(counted, axis=1, dtype=jnp.float32), 1.0)[:, None]
    elif method == "constant":
        each = each / counted.shape[1]
    total = loss_count(mask, method, keep=keep) if total is None else total
    return jnp.where(counted, each / valid_count(counted, total), 0.0)


def loss_count(
    mask: Bool[Given, "B T"], method: str = "token", *, keep: Bool[Given, " B"] | None = None
) -> Float[jax.Array, ""]:
    """f32[], over how many the mean of `loss_weights` is: tokens for "token", answers with a token otherwise."""
    if method not in METHODS:
        raise ValueError(f'method={method!r} does not add up losses; use "token", "sequence" or "constant".')
    counted = _counted(mask, keep)
    return jnp.sum(counted if method == "token" else jnp.any(counted, axis=1), dtype=jnp.float32)


def aggregate(
    x: Float[Given, "*S"],
    mask: Bool[Given, "*S"],
    total: Num[Given, ""] | None = None,
    weights: Float[Given, "*S"] | None = None,
) -> Float[jax.Array, ""]:
    """f32[], the sum of `x` by `weights`, or without any the mean over the valid tokens.

    Args:
      x, mask: f32 and bool of the same shape.
      total: valid tokens in the global batch.
      weights: of `loss_weights`, held constant.
    """
    if weights is None:
        return masked_mean(x, mask, total)
    x, weights = valid_only(mask, x=x, weights=weights)
    return masked_sum(jax.lax.stop_gradient(weights) * x, mask)


def sequence_means(
    x: Float[Given, "R W"], mask: Bool[Given, "R W"], segment_ids: Int[Given, "R W"], count: int
) -> Float[jax.Array, "R W"]:
    """f32[R, W], at each valid token the mean of `x` over the valid tokens of its sequence; 0 elsewhere.

    With log-ratios it gives the logarithm of GSPO's ratio of a whole answer, (π(y)/π_old(y))^(1/|y|): Zheng et al.
    2025, https://arxiv.org/abs/2507.18071, eq. 7.

    Args:
      x: f32[R, W], rows of one sequence or several.
      mask: bool[R, W].
      segment_ids: i32[R, W], 1 to `count`, the same for the tokens of a sequence and of no other in its row; 0: none.
      count: the largest of them.
    """
    (x,) = valid_only(mask, x=x)
    add_up = jax.vmap(lambda row, ids: jnp.zeros(count + 1, jnp.float32).at[ids].add(row))
    sums, sizes = add_up(x, segment_ids), add_up(as_mask(mask).astype(jnp.float32), segment_ids)
    means = sums / jnp.maximum(sizes, 1.0)
    return jnp.where(mask, jnp.take_along_axis(means, segment_ids, axis=1), 0.0)


def _counted(mask: Bool[Given, "B T"], keep: Bool[Given, " B"] | None) -> Bool[jax.Array, "B T"]:
    """The tokens that count."""
    mask = as_mask(mask)
    return mask if keep is None else mask & as_mask(keep, "keep")[:, None]
