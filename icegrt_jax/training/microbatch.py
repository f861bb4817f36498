"""A batch a few rows at a time: what a loss needs is then held for those rows only.

Rows are dealt out like cards, row r to block r mod count. A batch that is split over devices stays where it is:
every device has an equal share of every block.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from icegrt_jax.sharding.constrain import constrain_batch


def block_count(rows: int, size: int) -> int:
    """Blocks of `size` rows in a batch of `rows`; one block where size is 0 or the batch is no larger."""
    if not size or rows <= size:
        return 1
    if rows % size:
        raise ValueError(f"{rows} rows do not divide into blocks of {size}; use a divisor of {rows}.")
    return rows // size


def split_rows(tree: Any, count: int) -> Any:
    """Every leaf [B, ...] as [count, B / count, ...]."""

    def split(x):
        return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)

    return jax.tree.map(split, tree)


def join_rows(tree: Any) -> Any:
    """The inverse of `split_rows`."""

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    return jax.tree.map(join, tree)


def summed(fn: Callable[[Any], Any], batch: Any, count: int) -> Any:
    """The sum of `fn(block)` over the blocks of a batch, one after another.

    For losses, gradients and metrics that are shares of a mean over the whole batch (`rl.masked`).
    """
    if count == 1:
        return fn(batch)
    blocks = split_rows(batch, count)
    shapes = jax.eval_shape(fn, jax.tree.map(lambda x: x[0], blocks))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(total, block):
        return jax.tree.map(jnp.add, total, fn(constrain_batch(block))), None

    return jax.lax.scan(add, zeros, blocks)[0]


def joined(fn: Callable[[Any], Any], batch: Any, count: int) -> Any:
    """`fn(block)` of every block, one after another, its leaves [B / count, ...] put together as [B, ...]."""
    if count == 1:
        return fn(batch)
    return constrain_batch(join_rows(jax.lax.map(lambda block: fn(constrain_batch(block)), split_rows(batch, count))))
