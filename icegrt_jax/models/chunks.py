"""Work on the logits of many tokens, a chunk of tokens at a time: no array of all logits is ever made.

The tokens that may count, of all rows, are put one after another and cut, so a chunk has the same size however many
rows there are. On a CPU no logits are made of prompts and padding. Where the batch is split over devices, each device
cuts its own rows and a chunk has one piece of every device.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from icegrt_jax.sharding.constrain import batch_parts, constrain_batch, most_anywhere
from icegrt_jax.sharding.mesh import platform

# Logits that a device holds at a time. Each chunk reads and writes the gradient of the whole table, so where products
# are fast a chunk must be long.
CHUNK_ELEMENTS = 2**24
CHUNK_ELEMENTS_ACCELERATOR = 2**26
MIN_CHUNK = 64  # tokens; with fewer, reading the weights would take longer than the product
MAX_CHUNK = 512  # on a CPU, where longer chunks gain nothing and the last one may hold tokens that do not count


def chunk_length(tokens: int, vocab_size: int) -> int:
    """Tokens in a chunk: about CHUNK_ELEMENTS logits, MIN_CHUNK to MAX_CHUNK tokens, and chunks of nearly one size."""
    if platform() == "cpu":
        most = min(max(MIN_CHUNK, CHUNK_ELEMENTS // vocab_size), MAX_CHUNK)
    else:
        most = max(MIN_CHUNK, CHUNK_ELEMENTS_ACCELERATOR // vocab_size)
    return -(-tokens // -(-tokens // most))


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How the tokens of a batch are cut into chunks: those that count first.

    On a CPU they come first among all tokens of a part, so that the last chunks may be left out; elsewhere among those
    of their row, which stays where it is.

    parts: devices that the rows are split over. kept: tokens of a part that may count.
    chunk: tokens of a chunk. count: chunks.
    order: i32[groups, kept of a group], the tokens of a part or a row that count, then others; None: as they are.
    counts: bool of the same shape, which are which. rank: i32[groups, tokens], where each token is then.
    needed: i32[], chunks with tokens that count, of the part that has most; None: all of them are computed.
    """

    parts: int
    kept: int
    chunk: int
    count: int
    mask: jax.Array
    order: jax.Array | None
    counts: jax.Array
    rank: jax.Array | None
    needed: jax.Array | None

    def split(self, tree):
        """Arrays [B, L, …] as [chunks, devices, tokens, …]."""

        def split(x):
            if self.order is None:
                return self._dealt(x)
            groups = x.reshape(self.order.shape[0], -1, *x.shape[2:])
            return self._dealt(jax.vmap(lambda rows, order: rows[order])(groups, self.order))

        return jax.tree.map(split, tree)

    def split_mask(self):
        """bool[chunks, devices, tokens], the tokens that count."""
        return self._dealt(self.counts)

    def _dealt(self, x):
        x = x.reshape(self.parts, self.kept, *x.shape[2:])
        full = self.count * self.chunk - self.kept
        padded = jnp.pad(x, ((0, 0), (0, full)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(self.parts, self.count, self.chunk, *x.shape[2:]), 1, 0)

    def join(self, tree):
        """The inverse of `split`, zero for the tokens that do not count."""

        def join(x):
            x = jnp.moveaxis(x, 0, 1).reshape(self.parts, self.count * self.chunk, *x.shape[3:])[:, : self.kept]
            if self.order is not None:
                groups = x.reshape(*self.order.shape, *x.shape[2:])
                x = jax.vmap(lambda rows, rank: rows[rank])(groups, self.rank)
            x = x.reshape(*self.mask.shape, *x.shape[2:])
            return jnp.where(jnp.expand_dims(self.mask, range(2, x.ndim)), x, jnp.zeros((), x.dtype))

        return constrain_batch(jax.tree.map(join, tree))


def _cut(mask: jax.Array, most: int, vocab_size: int) -> _Cut:
    """For a mask bool[B, L] of which at most `most` are True in a row."""
    (batch, length), local = mask.shape, platform() == "cpu"
    parts, most = batch_parts(batch), min(most, length)
    kept = batch // parts * most
    chunk = chunk_length(kept, vocab_size)
    count = -(-kept // chunk)
    if not local and most == length:
        return _Cut(parts, kept, chunk, count, mask, None, mask, None, None)
    flat, in_group = (mask.reshape(parts, -1), kept) if local else (mask, most)
    rank = jnp.cumsum(flat, axis=1, dtype=jnp.int32) - 1
    tokens = jnp.arange(flat.shape[1], dtype=jnp.int32)
    place = lambda mask, rank: jnp.zeros(in_group, jnp.int32).at[jnp.where(mask, rank, in_group + tokens)].set(
        tokens, mode="drop", unique_indices=True
    )  # fmt: skip
    order, total = jax.vmap(place)(flat, rank), rank[:, -1:] + 1
    counts = jnp.arange(in_group)[None] < total
    needed = most_anywhere(-(-jnp.max(total) // chunk)) if local else None
    return _Cut(parts, kept, chunk, count, mask, order, counts, jnp.clip(rank, 0, in_group - 1), needed)


def over_chunks(fn: Callable, vocab_size: int, mask: jax.Array, *arrays: jax.Array, most: int):
    """`fn` of the tokens of arrays [B, L, …] that count, chunk by chunk and rematerialised; its results joined.

    Args:
      fn: of the same arrays as [devices, tokens, …].
      vocab_size: V, of the logits that `fn` makes.
      mask: bool[B, L], the tokens that count; the results of the others are zero.
      most: True in a row of the mask at most.
    """
    cut = _cut(mask, most, vocab_size)
    chunks = cut.split(arrays)
    compute = jax.checkpoint(lambda xs: fn(*constrain_batch(xs)))
    if cut.needed is None:
        return cut.join(jax.lax.map(compute, chunks))
    shapes = jax.eval_shape(lambda xs: compute(jax.tree.map(lambda x: x[0], xs)), chunks)

    def step(_, xs):
        index, chunk = xs
        return None, jax.lax.cond(index < cut.needed, compute, lambda _: _zeros(shapes), chunk)

    return cut.join(jax.lax.scan(step, None, (jnp.arange(cut.count), chunks))[1])


def sum_over_chunks(
    fn: Callable, vocab_size: int, weights: dict, mask: jax.Array, hidden: jax.Array, *arrays: jax.Array, most: int
):
    """A loss that is a sum over tokens, and metrics that are: (f32[], {name: f32[]}), added up chunk by chunk.

    Where it is differentiated, a chunk's gradient is taken together with its value, so that its logits are
    computed once, and three products with the vocabulary are made instead of four.

    Args:
      fn: `(weights, hidden, mask, *arrays) -> (loss, metrics)` of one chunk, [devices, tokens, …], with masked sums.
        Differentiated with respect to weights and hidden only; nothing that it closes over may depend on them.
      vocab_size: V, of the logits that `fn` makes.
      weights: what the logits are made with; of the leaves that are not trained no gradient is taken.
      mask: bool[B, L], the tokens that count. most: True in a row of it at most.
      hidden: f[B, L, D]. arrays: [B, L, …].
    """
    cut = _cut(mask, most, vocab_size)
    rest = (cut.split_mask(), *cut.split(arrays))

    @jax.custom_vjp
    def summed(weights, hidden):
        return _add_up(lambda xs: fn(weights, *xs), (cut.split(hidden), *rest), cut.needed)

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

        chunks = (cut.split(hidden.value), *rest)
        (value, weight_grads), hidden_grads = _add_up(sums_and_rest, chunks, cut.needed, with_rest=True)
        found = iter(weight_grads)
        grads = jax.tree.unflatten(treedef, [next(found) if own else None for own in trained])
        return value, (grads, cut.join(hidden_grads))

    def backward(grads, cotangents):
        return jax.tree.map(lambda x: (cotangents[0] * x).astype(x.dtype), grads)

    summed.defvjp(forward, backward, symbolic_zeros=True)
    return summed(weights, hidden)


def _zeros(shapes):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _add_up(fn: Callable, chunks: tuple, needed: jax.Array | None, *, with_rest: bool = False):
    """The sum of `fn(chunk)` over `needed` chunks; `with_rest` of its first result, the second ones stacked."""
    split = fn if with_rest else lambda xs: (fn(xs), None)
    count = jax.tree.leaves(chunks)[0].shape[0]
    if count == 1:
        sums, rest = split(constrain_batch(jax.tree.map(lambda x: x[0], chunks)))
        return (sums, jax.tree.map(lambda x: x[None], rest)) if with_rest else sums
    shapes, rest_shapes = jax.eval_shape(lambda xs: split(jax.tree.map(lambda x: x[0], xs)), chunks)

    def add(sums, xs):
        more, rest = split(constrain_batch(xs))
        return jax.tree.map(jnp.add, sums, more), rest

    def step(sums, xs):
        index, chunk = xs
        if needed is None:
            return add(sums, chunk)
        return jax.lax.cond(index < needed, add, lambda sums, _: (sums, _zeros(rest_shapes)), sums, chunk)

    sums, rest = jax.lax.scan(step, _zeros(shapes), (jnp.arange(count), chunks))
    return (sums, rest) if with_rest else sums
