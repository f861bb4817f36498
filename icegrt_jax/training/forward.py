"""What the update steps read off the roles: log-probs and values of responses, scores of answers."""

import jax
import jax.numpy as jnp

from icegrt_jax.models.chunks import over_chunks
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import scalars, token_logprobs, unembed, vocabulary
from icegrt_jax.models.transformer import hidden_states
from icegrt_jax.parallel.sharding import with_vocabulary
from icegrt_jax.rl import exact_kl


def response_hidden(params: dict, config: ModelConfig, prompts, prompt_mask, responses, mask) -> jax.Array:
    """Hidden states f[B, T, D] from which each response token is predicted."""
    tokens = jnp.concatenate([prompts, responses], axis=1)
    seen = jnp.concatenate([prompt_mask, mask], axis=1)
    # The last token predicts nothing that is used, but without it widths would not be round.
    return hidden_states(params, config, tokens, seen)[:, prompts.shape[1] - 1 : -1]


def response_logprobs(
    params: dict, config: ModelConfig, prompts, prompt_mask, responses, mask, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy f32[B, T] of each response token at the sampling temperature.

    Args:
      prompts: i32[B, P], left-padded, with prompt_mask bool[B, P].
      responses: i32[B, T], right-padded, with mask bool[B, T].
      temperature: divides the logits; 0 (greedy) counts as 1.
    """
    hidden = response_hidden(params, config, prompts, prompt_mask, responses, mask)
    logprobs, entropy = token_logprobs(params, config, hidden, responses, temperature=temperature or 1.0)
    return jnp.where(mask, logprobs, 0.0), jnp.where(mask, entropy, 0.0)


def response_values(params: dict, config: ModelConfig, prompts, prompt_mask, responses, mask) -> jax.Array:
    """The critic's value f32[B, T] of the state before each response token, 0 where not mask."""
    hidden = response_hidden(params, config, prompts, prompt_mask, responses, mask)
    return jnp.where(mask, scalars(params, hidden), 0.0)


def response_exact_kl(
    params, config, ref_params, ref_config, prompts, prompt_mask, responses, mask, *, temperature: float
) -> jax.Array:
    """KL(policy || reference) of the next-token distributions, f32[B, T], chunk by chunk."""
    args = (prompts, prompt_mask, responses, mask)
    hidden = response_hidden(params, config, *args)
    ref_hidden = response_hidden(ref_params, ref_config, *args)

    def rows(weights, *states):
        def chunk(hidden, ref_hidden):
            logits = unembed(weights[0], config, hidden) / (temperature or 1.0)
            ref_logits = unembed(weights[1], ref_config, ref_hidden) / (temperature or 1.0)
            return exact_kl(logits, ref_logits)

        return over_chunks(chunk, config.vocab_size, *states)

    weights = (vocabulary(params, config), vocabulary(ref_params, ref_config))
    return jnp.where(mask, with_vocabulary(rows, weights, config.vocab_size, hidden, ref_hidden), 0.0)


def answer_scores(params: dict, config: ModelConfig, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """The scalar f32[B] at the last real token of each sequence.

    Args:
      tokens: i32[B, L], prompt and answer, padded on either side or both, with mask bool[B, L].
    """
    hidden = hidden_states(params, config, tokens, mask)
    last = tokens.shape[1] - 1 - jnp.argmax(jnp.flip(mask, axis=1), axis=1)
    return scalars(params, jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0])


def packed_hidden(params: dict, config: ModelConfig, batch: dict) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hidden states f[B, L-1, D] of packed rows, the tokens i32[B, L-1] they predict, and which count bool[B, L-1].

    Args:
      batch: tokens, segment_ids, positions i32[B, L] and loss_mask bool[B, L], see `data.pipeline`.
    """
    segments, positions = batch["segment_ids"], batch["positions"]
    hidden = hidden_states(params, config, batch["tokens"], segments > 0, segment_ids=segments, positions=positions)
    return hidden[:, :-1], batch["tokens"][:, 1:], batch["loss_mask"][:, 1:]
