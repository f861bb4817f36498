"""Prompts with what was sampled after them, and the rows they are packed into."""

from typing import NamedTuple

import jax
from flax import struct


class Rows(NamedTuple):
    """Rows that responses with their prompts fit into, one behind another. height: how many. width: tokens of a row."""

    height: int
    width: int


class Packings(NamedTuple):
    """score: for all responses of a rollout. update: for those of any one minibatch. None: P + T tokens for each."""

    score: Rows | None = None
    update: Rows | None = None


class Rollout(struct.PyTreeNode):
    """Prompts and what was sampled after them.

    prompts: i32[B, P], left-padded. prompt_mask: bool[B, P].
    responses: i32[B, T], right-padded. mask: bool[B, T], True up to and including the first EOS.
    logprobs: f32[B, T], of the full softmax at the sampling temperature (at 1 when greedy), 0 where not mask.
    finished: bool[B], the response ended with EOS, or a stop string, within T tokens.
    packing: how what reads the rollout packs it.
    temperature: at which it was sampled; None: not known.

    >>> model = ice.load_model("models/policy")
    >>> rollout = ice.generate(model, ["the cat"], key=jax.random.key(0), max_new_tokens=4).rollout()
    >>> rollout.responses.shape, rollout.temperature
    ((1, 4), 1.0)
    """

    prompts: jax.Array
    prompt_mask: jax.Array
    responses: jax.Array
    mask: jax.Array
    logprobs: jax.Array
    finished: jax.Array
    packing: Packings = struct.field(pytree_node=False, default=Packings())
    temperature: float | None = struct.field(pytree_node=False, default=None)
