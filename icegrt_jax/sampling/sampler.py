"""Prefill and decode in one compiled program; returns the tokens and their log-probabilities.

Randomness belongs to the sequence and the position: token t of sequence i is drawn with
fold_in(fold_in(key, i), t), so a sequence is the same whatever else is in its batch.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
from flax import struct

from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import pick_logprobs, unembed
from icegrt_jax.models.transformer import decode_step, empty_cache, prefill
from icegrt_jax.models.tree import unstacked
from icegrt_jax.parallel.sharding import constrain, constrain_batch, constrain_cache

EXCLUDED = -1e30  # logit of a token that top-k, top-p or min-p leaves out


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """How responses are drawn. Hashable: a static argument of the compiled program.

    Attributes:
      max_new_tokens: T, tokens in a response at most.
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: only the k likeliest tokens; 0 for all.
      top_p: only the likeliest tokens that together reach this probability; 1 for all.
      min_p: only tokens at least this fraction as likely as the likeliest; 0 for all.
      eos_ids: any of these ends a response; it is kept as the last token.
      pad_id: fills the rest.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    eos_ids: tuple[int, ...] = ()
    pad_id: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens}; expected 1 or more.")
        if self.temperature < 0:
            raise UserError(f"temperature={self.temperature}; expected 0 (greedy) or more.")
        if not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1 or self.top_k < 0:
            raise UserError(
                f"top_k={self.top_k}, top_p={self.top_p}, min_p={self.min_p}; "
                "expected top_k >= 0, 0 < top_p <= 1 and 0 <= min_p <= 1."
            )


@struct.dataclass
class Rollout:
    """Prompts and what was sampled after them.

    prompts: i32[B, P], left-padded. prompt_mask: bool[B, P].
    responses: i32[B, T], right-padded. mask: bool[B, T], True up to and including the first EOS.
    logprobs: f32[B, T], of the full softmax at the sampling temperature (at 1 when greedy), 0 where not mask.
    finished: bool[B], the response ended with EOS within T tokens.
    """

    prompts: jax.Array
    prompt_mask: jax.Array
    responses: jax.Array
    mask: jax.Array
    logprobs: jax.Array
    finished: jax.Array


def sequence_keys(key: jax.Array, start: int | jax.Array, count: int) -> jax.Array:
    """One key for each of the sequences start, …, start + count - 1 of a run."""
    return jax.vmap(functools.partial(jax.random.fold_in, key))(start + jnp.arange(count))


def restrict(logits: jax.Array, config: SamplerConfig) -> jax.Array:
    """Logits f32[B, V] with the tokens that top-k, top-p and min-p leave out set to EXCLUDED."""
    if config.top_k and config.top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, config.top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest, EXCLUDED, logits)
    if config.top_p < 1.0:
        # A token stays while those likelier than it fall short of top_p (arXiv 1904.09751, section 3.1).
        ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        probs = jax.nn.softmax(ordered, axis=-1)
        kept = jnp.cumsum(probs, axis=-1) - probs < config.top_p
        smallest = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < smallest, EXCLUDED, logits)
    if config.min_p > 0.0:
        floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(config.min_p)
        logits = jnp.where(logits < floor, EXCLUDED, logits)
    return logits


def draw(keys: jax.Array, logits: jax.Array, config: SamplerConfig) -> tuple[jax.Array, jax.Array]:
    """The next token i32[B] of each row and its log-probability f32[B].

    Args:
      keys: key[B], used for this token only.
      logits: f32[B, V].
      config: as given to `sample_responses`.
    """
    if config.temperature == 0.0:
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return token, pick_logprobs(logits, token)
    logits = logits / config.temperature
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:], jnp.float32))(keys)
    noisy = constrain(restrict(logits, config) + noise, "mlp_rows", "features")
    token = constrain(jnp.argmax(noisy, axis=-1).astype(jnp.int32), "mlp_rows")
    return token, pick_logprobs(logits, token)


def sample_responses(
    keys: jax.Array,
    params: dict,
    prompts: jax.Array,
    prompt_mask: jax.Array,
    *,
    model: ModelConfig,
    config: SamplerConfig,
    num_samples: int = 1,
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

    Returns:
      A `Rollout` of B * K rows.
    """
    chex.assert_equal_shape([prompts, prompt_mask])
    as_computed = params["embed"]["embedding"].dtype == jnp.dtype(model.dtype)
    if as_computed and jax.default_backend() == "cpu":
        # A scan copies each layer's slice of the stack for every token; benchmarks/sampler.py measures it. Weights
        # stored smaller stay stacked: taken apart, XLA widens all of them before the loop and holds the copies.
        params, model = unstacked(params, model)
    width, total = prompts.shape[1], config.max_new_tokens
    hidden, cache = prefill(params, model, prompts, prompt_mask, empty_cache(model, prompts.shape[0], width + total))
    batch_axis = 1 if model.scan_layers else 0
    repeat = functools.partial(jnp.repeat, repeats=num_samples, axis=0)
    cache = jax.tree.map(lambda x: jnp.repeat(x, num_samples, axis=batch_axis), cache)
    cache = constrain_cache(cache, model)
    prompts, prompt_mask, last_hidden = repeat(prompts), repeat(prompt_mask), repeat(hidden[:, -1])
    rows, eos = prompts.shape[0], jnp.array(config.eos_ids, jnp.int32)
    positions = jnp.sum(prompt_mask, axis=1, dtype=jnp.int32)  # of the first response token

    def step(carry):
        t, hidden, cache, slots, out, done = carry
        token, logprob = draw(
            jax.vmap(lambda key: jax.random.fold_in(key, t))(keys), unembed(params, model, hidden), config
        )
        token = jnp.where(done, config.pad_id, token)
        out = {
            "responses": out["responses"].at[:, t].set(token),
            "mask": out["mask"].at[:, t].set(~done),
            "logprobs": out["logprobs"].at[:, t].set(jnp.where(done, 0.0, logprob)),
        }
        done = done | jnp.any(token[:, None] == eos[None, :], axis=1)
        slots = slots.at[:, width + t].set(True)
        hidden, cache = decode_step(params, model, token, positions + t, slots, cache, width + t)
        hidden, slots, out, done = constrain_batch((hidden, slots, out, done))
        return t + 1, hidden, constrain_cache(cache, model), slots, out, done

    def unfinished(carry):
        t, done = carry[0], carry[-1]
        return (t < total) & ~jnp.all(done)

    out = {
        "responses": jnp.full((rows, total), config.pad_id, jnp.int32),
        "mask": jnp.zeros((rows, total), jnp.bool_),
        "logprobs": jnp.zeros((rows, total), jnp.float32),
    }
    slots = jnp.pad(prompt_mask, ((0, 0), (0, total)))
    start = (jnp.int32(0), last_hidden, cache, slots, out, jnp.zeros((rows,), jnp.bool_))
    *_, out, done = jax.lax.while_loop(unfinished, step, start)
    return Rollout(prompts=prompts, prompt_mask=prompt_mask, finished=done, **out)


compiled_sampler = jax.jit(sample_responses, static_argnames=("model", "config", "num_samples"))
