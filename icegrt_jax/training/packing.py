"""Responses one behind another in rows, as SFT's examples are: the models that read a rollout then read no padding."""

import jax
import jax.numpy as jnp
from flax import struct

from icegrt_jax.sampling import Rows
from icegrt_jax.sharding.constrain import constrain_batch
from icegrt_jax.training.state import Experience


class Packed(struct.PyTreeNode):
    """Token ids of prompts and responses in rows.

    tokens: i32[R, W]. segment_ids: i32[R, W], one for each sequence, 0 at padding. positions: i32[R, W], within it.
    mask: bool[R, W], True at the tokens of responses.
    most: of which there are that many in a row at most.
    shared: whether rows hold several sequences; otherwise each has one, from its start.
    """

    tokens: jax.Array
    segment_ids: jax.Array
    positions: jax.Array
    mask: jax.Array
    most: int = struct.field(pytree_node=False)
    shared: bool = struct.field(pytree_node=False)


class Minibatch(struct.PyTreeNode):
    """Experience in packed rows: numbers f32[R, W] stand at the tokens they belong to.

    values, returns: None without a critic. weights: of the policy's token losses; None: their mean.
    ptx: an SFT batch or None.
    """

    packed: Packed
    old_logprobs: jax.Array
    ref_logprobs: jax.Array
    values: jax.Array | None
    advantages: jax.Array
    returns: jax.Array | None
    weights: jax.Array | None
    ptx: dict | None


def first_fit(lengths: jax.Array, rows: int, width: int | jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Puts sequences into rows, the longest first, each into the first row that has room.

    Args:
      lengths: i32[B], none above `width`.
      rows: R, as many as are needed, or more.
      width: W.

    Returns:
      The row i32[B] and the column i32[B] where each begins, and how many rows are used, i32[].
    """

    def place(used, length):
        row = jnp.argmax(used + length <= width)
        return used.at[row].add(length), (row, used[row])

    order = jnp.argsort(-lengths, stable=True)
    used, (row, column) = jax.lax.scan(place, jnp.zeros(rows, jnp.int32), lengths[order])
    back = jnp.argsort(order)
    return row[back].astype(jnp.int32), column[back], jnp.sum(used > 0, dtype=jnp.int32)


class Packing:
    """Where each token of some prompts and responses is in packed rows.

    Args:
      prompt_mask: bool[B, P], left-padded. mask: bool[B, T], right-padded.
      rows: R and W that are enough (`training/buckets.py` finds them); B rows hold one sequence each, by default of
        P + T tokens.
    """

    rows: int
    width: int

    def __init__(self, prompt_mask: jax.Array, mask: jax.Array, rows: Rows | None = None):
        self.seen = jnp.concatenate([prompt_mask, mask], axis=1)  # bool[B, P + T]
        batch, self.prompt = prompt_mask.shape
        self.rows, self.width = rows or self.seen.shape
        self.shared = self.rows < batch
        self.lengths = jnp.sum(self.seen, axis=1, dtype=jnp.int32)
        row, column = jnp.arange(batch), jnp.zeros(batch, jnp.int32)
        if self.shared:
            row, column, _ = first_fit(self.lengths, self.rows, self.width)
        self.start = row * self.width + column  # i32[B]
        self.positions = jnp.maximum(jnp.cumsum(self.seen, axis=1, dtype=jnp.int32) - 1, 0)
        self.place = self.start[:, None] + self.positions  # i32[B, P + T], of the rows end to end
        # For each place the token that stands there; padding is put past the end, where it is dropped.
        size = self.rows * self.width
        padding = size + jnp.arange(self.seen.size, dtype=jnp.int32).reshape(self.seen.shape)
        target = jnp.where(self.seen, self.place, padding).reshape(-1)
        source = jnp.full(size, -1, jnp.int32).at[target].set(
            jnp.arange(self.seen.size, dtype=jnp.int32), mode="drop", unique_indices=True
        )  # fmt: skip
        self.source = source.reshape(self.rows, self.width)

    def pack(self, x: jax.Array) -> jax.Array:
        """An array [B, P + T], or [B, T] of the responses, in rows [R, W]; zero at padding."""
        if x.shape[1] < self.seen.shape[1]:
            x = jnp.pad(x, ((0, 0), (self.prompt, 0)))
        picked = x.reshape(-1)[jnp.maximum(self.source, 0)]
        return constrain_batch(jnp.where(self.source < 0, jnp.zeros((), x.dtype), picked))

    def tokens(self, prompts: jax.Array, responses: jax.Array) -> Packed:
        """The ids i32[B, P] and i32[B, T] in rows."""
        batch, length = responses.shape
        ids = jnp.broadcast_to(jnp.arange(1, batch + 1, dtype=jnp.int32)[:, None], self.seen.shape)
        return Packed(
            tokens=self.pack(jnp.concatenate([prompts, responses], axis=1)),
            segment_ids=self.pack(ids),
            positions=self.pack(self.positions),
            mask=self.pack(self.seen[:, self.prompt :]),
            most=self.width - 1 if self.shared else min(length, self.width - 1),
            shared=self.shared,
        )

    def responses(self, x: jax.Array) -> jax.Array:
        """What stands at the responses' tokens in rows [R, W], as [B, T]; zero at padding."""
        return self._read(x, self.place)

    def before_responses(self, x: jax.Array) -> jax.Array:
        """What stands one token before each of the responses' tokens in rows [R, W], as [B, T]; zero at padding."""
        return self._read(x, self.place - 1)

    def _read(self, x, place):
        at, mask = place[:, self.prompt :], self.seen[:, self.prompt :]
        return constrain_batch(jnp.where(mask, x.reshape(-1)[jnp.maximum(at, 0)], jnp.zeros((), x.dtype)))

    def last(self, x: jax.Array) -> jax.Array:
        """What stands at the last token of each sequence, [B, ...], of [R, W, ...]."""
        return constrain_batch(x.reshape(-1, *x.shape[2:])[self.start + self.lengths - 1])


def pack_experience(experience: Experience, weights: jax.Array | None = None) -> Minibatch:
    """In `experience.rows`; `weights` f32[B, T] are of the policy's token losses."""
    packing = Packing(experience.prompt_mask, experience.mask, experience.rows)
    names = ("old_logprobs", "ref_logprobs", "values", "advantages", "returns")
    packed = packing.tokens(experience.prompts, experience.responses)
    arrays = {name: getattr(experience, name) for name in names} | {"weights": weights}
    in_rows = {name: None if x is None else packing.pack(x) for name, x in arrays.items()}
    return Minibatch(packed=packed, **in_rows, ptx=experience.ptx)


def rows_needed(lengths: jax.Array, width: int | jax.Array) -> jax.Array:
    """Rows that hold any one group of sequences of these lengths, i32[G, B]: i32[], B + 1 where one is too long."""
    rows = jnp.max(jax.vmap(lambda group: first_fit(group, group.size, width)[2])(lengths))
    return jnp.where(jnp.max(lengths) > width, lengths.shape[1] + 1, rows)
