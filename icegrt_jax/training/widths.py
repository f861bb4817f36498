"""Widths of a rollout: as many columns as its longest prompt and response need, of few different widths."""

import functools

import jax
import jax.numpy as jnp

from icegrt_jax.parallel.sharding import constrain_batch
from icegrt_jax.sampling import Rollout
from icegrt_jax.sampling.generate import BUCKET

WIDTHS = 4  # different widths of a kind at most, each a compiled program


def bucketed(longest: int, length: int) -> int:
    """The width for rows of `longest` tokens: one of WIDTHS, the largest of them `length`."""
    step = -(-length // (WIDTHS * BUCKET)) * BUCKET
    return min(-(-longest // step) * step, length)


@jax.jit
def longest(rollout: Rollout) -> jax.Array:
    """Tokens of the longest prompt and of the longest response, i32[2], the same on every host."""
    count = lambda mask: jnp.max(jnp.sum(mask, axis=1, dtype=jnp.int32))
    return jnp.stack([count(rollout.prompt_mask), count(rollout.mask)])


def trimmed(rollout: Rollout) -> Rollout:
    """The rollout without columns that are padding in every row: neither scoring nor updates pay for them.

    Waits for the sampler. The widths depend on the rollout alone, so a resumed run has the same.
    """
    prompt, response = (int(x) for x in jax.device_get(longest(rollout)))
    # A response of nothing but padding does not happen; one column stays in any case.
    widths = bucketed(prompt, rollout.prompts.shape[1]), bucketed(max(response, 1), rollout.responses.shape[1])
    if widths == (rollout.prompts.shape[1], rollout.responses.shape[1]):
        return rollout
    return _cut(rollout, *widths)


@functools.partial(jax.jit, static_argnames=("prompt", "response"))
def _cut(rollout: Rollout, prompt: int, response: int) -> Rollout:
    """The last `prompt` columns of the prompts, which are padded on the left, and the first `response` ones."""
    start = rollout.prompts.shape[1] - prompt
    return constrain_batch(
        rollout.replace(
            prompts=rollout.prompts[:, start:],
            prompt_mask=rollout.prompt_mask[:, start:],
            responses=rollout.responses[:, :response],
            mask=rollout.mask[:, :response],
            logprobs=rollout.logprobs[:, :response],
        )
    )
