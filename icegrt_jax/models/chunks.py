"""Work on the logits of many tokens, a chunk of tokens at a time: no array of all logits is ever made.

Tokens of all rows are put one after another and cut, so a chunk has the same size however many rows there are. Where
the batch is split over devices, each device cuts its own rows and a chunk has one piece of every device.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from icegrt_jax.parallel.mesh import platform
from icegrt_jax.parallel.sharding import batch_parts, constrain_batch

# Logits that a device holds at a time. Each chunk reads and writes the gradient of the whole table, so where products
# are fast a chunk must be long.
CHUNK_ELEMENTS = 2**24
CHUNK_ELEMENTS_ACCELERATOR = 2**26
MIN_CHUNK = 64  # tokens; with fewer, reading the weights would take longer than the product


def chunk_length(tokens: int, vocab_size: int) -> int:
    """Tokens in a chunk: about CHUNK_ELEMENTS logits, at least MIN_CHUNK tokens, and chunks of nearly one size."""
    elements = CHUNK_ELEMENTS if platform() == "cpu" else CHUNK_ELEMENTS_ACCELERATOR
    most = max(MIN_CHUNK, elements // vocab_size)
    return -(-tokens // -(-tokens // most))


def _split(arrays, vocab_size: int):
    """Arrays [B, L, …] as [chunks, devices, tokens, …]; what fills the last chunk is zero."""
    batch, length = jax.tree.leaves(arrays)[0].shape[:2]
    parts = batch_parts(batch)
    tokens = batch // parts * length
    chunk = chunk_length(tokens, vocab_size)
    count = -(-tokens // chunk)

    def split(x):
        flat = x.reshape(parts, tokens, *x.shape[2:])
        padded = jnp.pad(flat, ((0, 0), (0, count * chunk - tokens)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(parts, count, chunk, *x.shape[2:]), 1, 0)

    return jax.tree.map(split, arrays)


def _join(arrays, batch: int, length: int):
    """The inverse of `_split`."""

    def join(x):
        count, parts, chunk = x.shape[:3]
        flat = jnp.moveaxis(x, 0, 1).reshape(parts, count * chunk, *x.shape[3:])
        return flat[:, : batch // parts * length].reshape(batch, length, *x.shape[3:])

    return constrain_batch(jax.tree.map(join, arrays))


def over_chunks(fn: Callable, vocab_size: int, *arrays: jax.Array):
    """`fn` of arrays [B, L, …], chunk by chunk and rematerialised; its results [B, L, …] joined.

    Args:
      fn: of the same arrays as [devices, tokens, …].
      vocab_size: V, of the logits that `fn` makes.
    """
    batch, length = arrays[0].shape[:2]
    chunks = _split(arrays, vocab_size)
    out = jax.lax.map(jax.checkpoint(lambda xs: fn(*constrain_batch(xs))), chunks)
    return _join(out, batch, length)


def sum_over_chunks(fn: Callable, vocab_size: int, weights: dict, hidden: jax.Array, *arrays: jax.Array):
    """A loss that is a sum over tokens, and metrics that are: (f32[], {name: f32[]}), added up chunk by chunk.

    Where it is differentiated, a chunk's gradient is taken together with its value, so that its logits are
    computed once, and three products with the vocabulary are made instead of four.

    Args:
      fn: `(weights, hidden, *arrays) -> (loss, metrics)` of one chunk, [devices, tokens, …]. Differentiated with
        respect to the first two only; nothing that it closes over may depend on them. Zero is added to fill
        the last chunk: an array among the arrays must be a mask.
      vocab_size: V, of the logits that `fn` makes.
      weights: what the logits are made with; of the leaves that are not trained no gradient is taken.
      hidden: f[B, L, D]. arrays: [B, L, …].
    """
    batch, length = hidden.shape[:2]
    rest = _split(arrays, vocab_size)

    @jax.custom_vjp
    def summed(weights, hidden):
        return _add_up(lambda xs: fn(weights, *xs), (_split(hidden, vocab_size), *rest))

    def forward(weights, hidden):
        leaves, treedef = jax.tree.flatten(weights, is_leaf=lambda x: hasattr(x, "perturbed"))
        values, trained = [leaf.value for leaf in leaves], [leaf.perturbed for leaf in leaves]

        def of_chunk(moved, hidden, *arrays):
            moved = iter(moved)
            mixed = [next(moved) if own else value for value, own in zip(values, trained)]
            return fn(jax.tree.unflatten(treedef, mixed), hidden, *arrays)

        moved = [value for value, own in zip(values, trained) if own]
        differentiated = jax.value_and_grad(of_chunk, argnums=(0, 1), has_aux=True)

        def sums_and_rest(xs):
            value, (weight_grads, hidden_grad) = differentiated(moved, *xs)
            return (value, weight_grads), hidden_grad

        chunks = (_split(hidden.value, vocab_size), *rest)
        (value, weight_grads), hidden_grads = _add_up(sums_and_rest, chunks, with_rest=True)
        found = iter(weight_grads)
        grads = jax.tree.unflatten(treedef, [next(found) if own else None for own in trained])
        return value, (grads, _join(hidden_grads, batch, length))

    def backward(grads, cotangents):
        return jax.tree.map(lambda x: (cotangents[0] * x).astype(x.dtype), grads)

    summed.defvjp(forward, backward, symbolic_zeros=True)
    return summed(weights, hidden)


def _add_up(fn: Callable, chunks: tuple, *, with_rest: bool = False):
    """The sum of `fn(chunk)` over chunks; `with_rest` of its first result, the second ones stacked."""
    split = fn if with_rest else lambda xs: (fn(xs), None)
    if jax.tree.leaves(chunks)[0].shape[0] == 1:
        sums, rest = split(constrain_batch(jax.tree.map(lambda x: x[0], chunks)))
        return (sums, jax.tree.map(lambda x: x[None], rest)) if with_rest else sums
    shapes = jax.eval_shape(lambda xs: split(jax.tree.map(lambda x: x[0], xs))[0], chunks)

    def step(sums, xs):
        more, rest = split(constrain_batch(xs))
        return jax.tree.map(jnp.add, sums, more), rest

    sums, rest = jax.lax.scan(step, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), chunks)
    return (sums, rest) if with_rest else sums
