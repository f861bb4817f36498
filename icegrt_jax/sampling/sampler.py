"""Prefill and decode in one compiled program; returns the tokens and their log-probabilities.

Randomness belongs to the sequence and the position: token t of sequence i is drawn with
fold_in(fold_in(key, i), t), so a sequence is the same whatever else is in its batch, and whenever its turn comes.

With fewer slots than responses, batching is continuous: once enough rows have finished, the next prompts are
prefilled into their places and decoding goes on, all inside the one program, so that every host of a run takes the
same branch. A slot's cache has room for a prompt and, as a ring, for the T tokens after it: all rows write where the
ring's hand is, each keeps track of which places hold tokens of its own, and after T steps the first of them is free.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct

from icegrt_jax.errors import UserError
from icegrt_jax.models.cache import empty_cache, insert_rows, repeat_rows
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import unembed
from icegrt_jax.models.transformer import decode_step, prefill
from icegrt_jax.models.tree import unstacked
from icegrt_jax.sampling.draw import SamplerConfig, draw
from icegrt_jax.sampling.rollout import Rollout
from icegrt_jax.sharding.constrain import constrain_batch, constrain_cache
from icegrt_jax.sharding.mesh import platform

TAKEN_APART = ("cpu", "gpu")  # back ends where decoding with stacked layers has been measured, and is slower
REFILLS = 8  # a refill waits until this part of the slots is free


def sequence_keys(key: jax.Array, start: int | jax.Array, count: int) -> jax.Array:
    """One key for each of the sequences start, …, start + count - 1 of a run."""
    return jax.vmap(functools.partial(jax.random.fold_in, key))(start + jnp.arange(count))


def prompts_at_a_time(prompts: int, num_samples: int, slots: int) -> int:
    """Prompts that a refill reads; all of them where there is a slot for each response."""
    return prompts if slots == prompts * num_samples else max(1, slots // REFILLS // num_samples)


class Slots(struct.PyTreeNode):
    """What the rows in flight look like, and the results so far.

    cache: keys and values, R rows of P + T places. seen: bool[R, P + T], places that hold the row's own tokens.
    token: i32[R], drawn last and not yet read. position: i32[R], its position in its sequence. keys: key[R].
    row: i32[R], the response's row in the result; past the end in slots that were never filled.
    matched: i32[R], how much of a stop string the text ends with, a state of `stops`; None without.
    length: i32[R], tokens drawn. active: bool[R]. ended: bool[R], the last token is an EOS.
    tokens: i32[R, T] and logprobs: f32[R, T], drawn so far.
    out: tokens, logprobs, length, ended of the N·K responses.
    hand: i32[], steps done. next: i32[], the first prompt that waits.
    """

    cache: Any
    seen: jax.Array
    token: jax.Array
    position: jax.Array
    keys: jax.Array
    row: jax.Array
    matched: jax.Array | None
    length: jax.Array
    active: jax.Array
    ended: jax.Array
    tokens: jax.Array
    logprobs: jax.Array
    out: dict[str, jax.Array] | Any
    hand: jax.Array
    next: jax.Array


class Drawing(NamedTuple):
    """How tokens are drawn, as `sample_responses` is told."""

    config: SamplerConfig
    temperature: jax.Array | float | None
    stops: jax.Array | None


def sample_responses(
    keys: jax.Array,
    params: dict,
    prompts: jax.Array,
    prompt_mask: jax.Array,
    *,
    model: ModelConfig,
    config: SamplerConfig,
    num_samples: int = 1,
    slots: int = 0,
    count: jax.Array | int | None = None,
    stops: jax.Array | None = None,
    temperature: jax.Array | float | None = None,
) -> Rollout:
    """Responses to left-padded prompts; `num_samples` for each share the prompt's prefill.

    Args:
      keys: key[B * num_samples], one for each response, see `sequence_keys`.
      params: of the policy.
      prompts: i32[B, P].
      prompt_mask: bool[B, P], some True in every row, the last column all True.
      model: the policy's shape.
      config: how to draw.
      num_samples: K; responses of one prompt are neighbours in the result.
      slots: R, responses in flight at a time, a multiple of K; 0 for all. What is sampled does not depend on it.
      count: i32[], prompts to answer, the first of the B; the rows of the others come back empty.
      stops: i32[S, V], of strings that end a response as EOS does: the state after a token, where before it was that of
        the row. A response begins in state 0 and ends in the last one.
      temperature: f32[], above 0, in the place of config's, which must not be greedy: many temperatures are then one
        program. The rollout does not know it.

    Returns:
      A `Rollout` of B * K rows.
    """
    chex.assert_equal_shape([prompts, prompt_mask])
    as_computed = params["embed"]["embedding"].dtype == jnp.dtype(model.dtype)
    if as_computed and platform() in TAKEN_APART:
        # A scan copies each layer's slice of the stack for every token; benchmarks/README.md has what that costs.
        # Weights stored smaller stay stacked: taken apart, XLA widens all of them before the loop and holds the copies.
        params, model = unstacked(params, model)
    total, width = prompts.shape
    slots = min(slots or total * num_samples, total * num_samples)
    if slots % num_samples:
        raise UserError(f"slots={slots} is not a multiple of the {num_samples} samples of a prompt; make it one.")
    count = total if count is None else jnp.minimum(count, total)
    at_a_time = prompts_at_a_time(total, num_samples, slots)
    how = Drawing(config, temperature, stops)
    admit = functools.partial(_admit, params, model, how, keys, prompts, prompt_mask, num_samples, at_a_time, count)
    step = functools.partial(_step, params, model, how, width)

    def go_on(state):
        free = jnp.sum(~state.active, dtype=jnp.int32)
        return jnp.any(state.active) & ((state.next >= count) | (free < at_a_time * num_samples))

    def fill_and_run(state):
        return jax.lax.while_loop(go_on, step, admit(state))

    state = _empty_slots(keys, model, config, slots, total * num_samples, width, stops is not None)
    if at_a_time == total:
        state = fill_and_run(state)
    else:
        state = jax.lax.while_loop(lambda state: state.next < count, fill_and_run, state)
    out = _with_finished(state).out
    repeat = functools.partial(jnp.repeat, repeats=num_samples, axis=0)
    mask = jnp.arange(config.max_new_tokens)[None, :] < out["length"][:, None]
    return Rollout(
        prompts=repeat(prompts),
        prompt_mask=repeat(prompt_mask),
        responses=jnp.where(mask, out["tokens"], config.pad_id),
        mask=mask,
        logprobs=jnp.where(mask, out["logprobs"], 0.0),
        finished=out["ended"],
        temperature=config.temperature if temperature is None else None,
    )


def _empty_slots(
    keys: jax.Array, model: ModelConfig, config: SamplerConfig, slots: int, rows: int, width: int, matching: bool
):
    """R slots with nothing in them and room for the results of `rows` responses."""
    new = config.max_new_tokens
    integers, flags = jnp.zeros((slots,), jnp.int32), jnp.zeros((slots,), jnp.bool_)
    return Slots(
        cache=empty_cache(model, slots, width + new, config.cache_dtype),
        seen=jnp.zeros((slots, width + new), jnp.bool_),
        token=integers,
        position=integers,
        keys=jnp.broadcast_to(keys[:1], (slots,)),
        row=jnp.full((slots,), rows, jnp.int32),
        matched=integers if matching else None,
        length=integers,
        active=flags,
        ended=flags,
        tokens=jnp.zeros((slots, new), jnp.int32),
        logprobs=jnp.zeros((slots, new), jnp.float32),
        out={
            "tokens": jnp.zeros((rows, new), jnp.int32),
            "logprobs": jnp.zeros((rows, new), jnp.float32),
            "length": jnp.zeros((rows,), jnp.int32),
            "ended": jnp.zeros((rows,), jnp.bool_),
        },
        hand=jnp.int32(0),
        next=jnp.int32(0),
    )


def _in_place(state: Slots, model: ModelConfig) -> Slots:
    """The state split over a mesh as it was: rows over rows, and the cache over heads as well."""
    cache = constrain_cache(state.cache, scanned=model.scan_layers)
    return constrain_batch(state.replace(cache=None)).replace(cache=cache)


def _with_finished(state: Slots) -> Slots:
    """The state with the finished rows copied to where the results are."""
    done = {name: getattr(state, name) for name in ("tokens", "logprobs", "length", "ended")}
    rows = jnp.where(state.active, state.out["length"].shape[0], state.row)
    return state.replace(out=jax.tree.map(lambda out, x: out.at[rows].set(x, mode="drop"), state.out, done))


def _drawn(params: dict, model: ModelConfig, how: Drawing, hidden: jax.Array, state: Slots) -> Slots:
    """The next token of every active row of `state`, drawn from what hidden f[R, D] predicts."""
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.length)
    token, logprob = draw(keys, unembed(params, model, hidden), how.config, how.temperature)
    here = state.active[:, None] & (jnp.arange(how.config.max_new_tokens)[None, :] == state.length[:, None])
    length = state.length + state.active
    eos = jnp.any(token[:, None] == jnp.array(how.config.eos_ids, jnp.int32)[None, :], axis=1)
    matched = None
    if how.stops is not None:
        matched = how.stops[state.matched, token]
        eos |= matched == how.stops.shape[0] - 1
    return state.replace(
        token=token,
        matched=matched,
        length=length,
        ended=jnp.where(state.active, eos, state.ended),
        active=state.active & ~eos & (length < how.config.max_new_tokens),
        tokens=jnp.where(here, token[:, None], state.tokens),
        logprobs=jnp.where(here, logprob[:, None], state.logprobs),
    )


def _step(params: dict, model: ModelConfig, how: Drawing, width: int, state: Slots) -> Slots:
    """Reads the last token of every row and draws the next one."""
    place = width + state.hand % how.config.max_new_tokens
    seen = state.seen.at[:, place].set(state.active)
    hidden, cache = decode_step(params, model, state.token, state.position, seen, state.cache, place)
    state = state.replace(cache=cache, seen=seen, position=state.position + 1, hand=state.hand + 1)
    return _in_place(_drawn(params, model, how, hidden, state), model)


def _admit(
    params, model, how: Drawing, keys, prompts, prompt_mask, num_samples: int, at_a_time: int, count, state: Slots
):
    """The next `at_a_time` prompts prefilled into free slots, the first token of their responses drawn."""
    state = _with_finished(state)
    slots, rows = state.active.shape[0], at_a_time * num_samples
    ids = state.next + jnp.arange(at_a_time)
    here = jnp.minimum(ids, prompts.shape[0] - 1)
    tokens, mask = prompts[here], prompt_mask[here]
    width, new = tokens.shape[1], how.config.max_new_tokens
    hidden, cache = prefill(params, model, tokens, mask, empty_cache(model, at_a_time, width, how.config.cache_dtype))
    waiting = jnp.repeat(ids < count, num_samples)
    mask = jnp.repeat(mask, num_samples, axis=0)
    row = (ids[:, None] * num_samples + jnp.arange(num_samples)[None, :]).ravel()
    admitted = Slots(
        cache=None,
        seen=jnp.pad(mask, ((0, 0), (0, new))),
        token=jnp.zeros((rows,), jnp.int32),
        position=jnp.sum(mask, axis=1, dtype=jnp.int32),
        keys=keys[jnp.minimum(row, keys.shape[0] - 1)],
        row=row,
        matched=None if how.stops is None else jnp.zeros((rows,), jnp.int32),
        length=jnp.zeros((rows,), jnp.int32),
        active=waiting,
        ended=jnp.zeros((rows,), jnp.bool_),
        tokens=jnp.zeros((rows, new), jnp.int32),
        logprobs=jnp.zeros((rows, new), jnp.float32),
        out=None,
        hand=None,
        next=None,
    )
    admitted = _drawn(params, model, how, jnp.repeat(hidden[:, -1], num_samples, axis=0), admitted)
    free = jnp.nonzero(~state.active, size=rows, fill_value=slots)[0]
    into = jnp.where(waiting, free, slots)  # past the end: dropped
    place = lambda old, new: old.at[into].set(new, mode="drop")
    moved = {name: getattr(state, name) for name in ("cache", "out", "hand", "next")}
    merged = jax.tree.map(place, state.replace(**dict.fromkeys(moved)), admitted)
    cache = repeat_rows(cache, num_samples, scanned=model.scan_layers)
    merged = merged.replace(
        cache=insert_rows(state.cache, cache, into, scanned=model.scan_layers),
        out=state.out,
        hand=state.hand,
        next=state.next + at_a_time,
    )
    return _in_place(merged, model)


compiled_sampler = jax.jit(sample_responses, static_argnames=("model", "config", "num_samples", "slots"))
