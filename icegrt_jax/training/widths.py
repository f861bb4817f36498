"""The rows that a rollout is packed into, of few different sizes: each is a compiled program."""

import functools

import jax
import jax.numpy as jnp

from icegrt_jax.sampling import Packings, Rollout, Rows
from icegrt_jax.sampling.generate import BUCKET
from icegrt_jax.training.packed import rows_needed
from icegrt_jax.training.ppo import minibatch_order
from icegrt_jax.training.state import PPOConfig, TrainState

WIDTHS = 8  # different widths at most
COUNTS = 4  # different numbers of rows at most


def widths_of(length: int) -> list[int]:
    """The widths for rows of at most `length` tokens: at most WIDTHS, the last of them `length`."""
    step = -(-length // (WIDTHS * BUCKET)) * BUCKET
    return [*range(step, length, step), length]


def bucketed(longest: int, length: int) -> int:
    """The first of `widths_of(length)` that holds rows of `longest` tokens."""
    return next(width for width in widths_of(length) if width >= longest)


def fitted(state: TrainState, rollout: Rollout, *, pack: bool = True, parts: int = 1, replay: int = 0) -> Rollout:
    """The rollout with the rows that it is packed into, hardly wider than its longest sequence.

    Waits for the sampler. The sizes depend on the state and the rollout alone, so a resumed run has the same.

    Args:
      pack: whether several responses may share a row.
      parts: over how many devices rows are split.
      replay: rows of replay in a minibatch, which are cut into as many blocks as the packed rows are.
    """
    length = rollout.prompts.shape[1] + rollout.mask.shape[1]
    needed = _needed(state.key, state.step, rollout, config=state.ppo, widths=tuple(widths_of(length)))
    width, score, update = jax.device_get(needed).tolist()
    rows, config = rollout.mask.shape[0], state.ppo
    minibatch = rows // config.num_minibatches
    if pack:
        score = row_count(score, rows, block=config.score_batch, parts=parts)
        update = row_count(update, minibatch, block=state.microbatch, parts=parts, replay=replay)
    else:
        score, update = rows, minibatch
    return rollout.replace(packing=Packings(Rows(score, width), Rows(update, width)))


def row_count(needed: int, sequences: int, *, block: int, parts: int, replay: int = 0) -> int:
    """Rows for sequences that fit into `needed`: one of COUNTS, the largest of them one row for each sequence.

    A multiple of `block` (or less than one) and of `parts`; the blocks divide the rows of `replay` evenly.
    """
    least = block if 0 < block < sequences else parts
    step = least * -(-sequences // (least * COUNTS))
    for rows in range(step, sequences, step):
        blocks = max(rows // block, 1) if block else 1
        if rows >= needed and (not replay or replay % (blocks * parts) == 0):
            return rows
    return sequences


@functools.partial(jax.jit, static_argnames=("config", "widths"))
def _needed(
    key: jax.Array, step: jax.Array, rollout: Rollout, *, config: PPOConfig, widths: tuple[int, ...]
) -> jax.Array:
    """The first of `widths` that holds every sequence, the rows for the whole rollout, and those a minibatch needs.

    i32[3], the same on every host.
    """
    lengths = jnp.sum(rollout.prompt_mask, axis=1, dtype=jnp.int32) + jnp.sum(rollout.mask, axis=1, dtype=jnp.int32)
    order = minibatch_order(key, step, config, lengths.size)
    width = jnp.array(widths)[jnp.argmax(jnp.array(widths) >= jnp.max(lengths))]
    return jnp.stack([width, rows_needed(lengths[None], width), rows_needed(lengths[order], width)])
