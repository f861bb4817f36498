"""The rows that a rollout is packed into, of few different sizes: each is a compiled program."""

import functools

import jax
import jax.numpy as jnp

from icegrt_jax.sampling import Packings, Rollout, Rows
from icegrt_jax.sampling.generate import BUCKET
from icegrt_jax.training.microbatch import block_count
from icegrt_jax.training.packing import rows_needed
from icegrt_jax.training.ppo import minibatch_order
from icegrt_jax.training.state import PPOConfig, TrainState

WIDTHS = 8  # different widths of a row for one sequence at most; rows for several are up to twice as wide
SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4)  # rows for each sequence, where several share one
# Fewer sequences than this need another of all those sizes nearly every time, so they are given a choice of few:
# 16 answers in 50 iterations three sizes in the place of eight, for 9 % more tokens. A size is two programs.
FEW, FEW_SHARES = 32, (1 / 4, 1 / 2)


def widths_of(length: int) -> list[int]:
    """The widths for rows of at most `length` tokens: at most WIDTHS, the last of them `length`."""
    step = -(-length // (WIDTHS * BUCKET)) * BUCKET
    return [*range(step, length, step), length]


def bucketed(longest: int, length: int) -> int:
    """The first of `widths_of(length)` that holds rows of `longest` tokens."""
    return next(width for width in widths_of(length) if width >= longest)


def widths_for_few(widths: list[int], length: int) -> set[int]:
    """Of `widths`: every second one for a row each, and the widest one for rows of half the number."""
    own = [width for width in widths if width <= length]
    wider = [width for width in widths if width > length and width**2 <= 2 * length**2]
    return {*own[::-2], *wider[-1:]}


def fitted(state: TrainState, rollout: Rollout, *, pack: bool = True, parts: int = 1) -> Rollout:
    """The rollout with the rows that it is packed into.

    Waits for the sampler. The sizes depend on the state and the rollout alone, so a resumed run has the same.

    Args:
      pack: whether several responses may share a row; otherwise rows are hardly wider than the longest sequence.
      parts: over how many devices rows are split.
    """
    config, sequences = state.ppo, rollout.mask.shape[0]
    minibatch, length = sequences // config.num_minibatches, rollout.prompts.shape[1] + rollout.mask.shape[1]
    own = widths_of(length)
    widths = own + [length + width for width in own] if pack else own
    needed = jax.device_get(_needed(state.key, state.step, rollout, config=config, widths=tuple(widths)))
    smallest = functools.partial(fewest_tokens, widths=widths, length=length, parts=parts, pack=pack)
    score = smallest(needed[0].tolist(), sequences=sequences, blocks=block_count(sequences, config.score_batch))
    update = smallest(needed[1].tolist(), sequences=minibatch, blocks=block_count(minibatch, state.microbatch))
    return rollout.replace(packing=Packings(score, update))


def fewest_tokens(
    needed: list[int], *, widths: list[int], sequences: int, length: int, blocks: int, parts: int, pack: bool = True
) -> Rows:
    """The rows of fewest tokens that hold all sequences, of those sizes that programs are compiled for.

    They have no more pairs of tokens than one row of `length` tokens for each sequence would have, so that plain
    attention's scores take no more memory than with those.

    Args:
      needed: rows that are needed at each of `widths`; more than `sequences` where one is too long for that width.
      length: of a sequence at most; one of `widths`.
      blocks: into how many the rows are cut, each again into `parts`.
    """
    step, few = blocks * parts, pack and sequences < FEW
    shares = (FEW_SHARES if few else SHARES) if pack else ()
    tried = {-(-int(sequences * share) // step) * step for share in shares}
    allowed = widths_for_few(widths, length) if few else widths
    counts = sorted({count for count in tried if 0 < count < sequences} | {sequences})
    found = []
    for width, rows in zip(widths, needed, strict=True):
        count = next((count for count in counts if count >= rows), None)
        if width in allowed and count and count * width**2 <= sequences * length**2:
            found.append(Rows(count, width))
    return min(found, key=lambda rows: (rows.height * rows.width, rows.width))


@functools.partial(jax.jit, static_argnames=("config", "widths"))
def _needed(
    key: jax.Array, step: jax.Array, rollout: Rollout, *, config: PPOConfig, widths: tuple[int, ...]
) -> jax.Array:
    """At each of `widths`, the rows for the whole rollout and those that a minibatch needs at most.

    i32[2, widths], the same on every host.
    """
    lengths = jnp.sum(rollout.prompt_mask, axis=1, dtype=jnp.int32) + jnp.sum(rollout.mask, axis=1, dtype=jnp.int32)
    order = minibatch_order(key, step, config, lengths.size)
    at_each = jax.vmap(rows_needed, in_axes=(None, 0))
    return jnp.stack([at_each(lengths[None], jnp.array(widths)), at_each(lengths[order], jnp.array(widths))])
