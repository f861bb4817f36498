"""What the update steps read off the roles: log-probs and values of responses, scores of answers."""

import jax
import jax.numpy as jnp

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import scalars, token_logprobs
from icegrt_jax.models.members import Members
from icegrt_jax.models.transformer import hidden_states, tree_hidden
from icegrt_jax.training.packing import Packed, Packing


def rows_hidden(params: dict, config: ModelConfig, rows: Packed) -> jax.Array:
    """Hidden states f[R, W, D] after each token."""
    segments = rows.segment_ids if rows.shared else None
    return hidden_states(
        params, config, rows.tokens, rows.segment_ids > 0, segment_ids=segments, positions=rows.positions
    )


def rows_logprobs(
    params: dict, config: ModelConfig, rows: Packed, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy f32[R, W] of each response token, 0 at other tokens.

    Args:
      temperature: divides the logits; 0 (greedy) counts as 1.
    """
    hidden = rows_hidden(params, config, rows)[:, :-1]
    read = token_logprobs(
        params, config, hidden, rows.tokens[:, 1:], rows.mask[:, 1:], most=rows.most, temperature=temperature or 1.0
    )
    return jax.tree.map(_at_their_tokens, read)


def rows_scalars(params: dict | Members, config: ModelConfig, rows: Packed) -> jax.Array:
    """The scalar f32[R, W] after each token; of several models f32[R, W, M]."""
    if isinstance(params, Members):
        return params.each(lambda one: rows_scalars(one, config, rows))
    return scalars(params, rows_hidden(params, config, rows))


def _at_their_tokens(x: jax.Array) -> jax.Array:
    """Of predictions [R, W - 1], each moved to the token it is about, [R, W]."""
    return jnp.pad(x, ((0, 0), (1, 0)))


def response_logprobs(
    params: dict, config: ModelConfig, prompts, prompt_mask, responses, mask, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy f32[B, T] of each response token at the sampling temperature.

    Args:
      prompts: i32[B, P], left-padded, with prompt_mask bool[B, P].
      responses: i32[B, T], right-padded, with mask bool[B, T].
      temperature: divides the logits; 0 (greedy) counts as 1.
    """
    packing = Packing(prompt_mask, mask)
    read = rows_logprobs(params, config, packing.tokens(prompts, responses), temperature=temperature)
    return jax.tree.map(packing.responses, read)


def answer_scores(params: dict | Members, config: ModelConfig, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """The scalar f32[B] at the last real token of each sequence; of several models f32[B, M].

    Args:
      tokens: i32[B, L], prompt and answer, padded on either side or both, with mask bool[B, L].
    """
    if isinstance(params, Members):
        return params.each(lambda one: answer_scores(one, config, tokens, mask))
    return last_scalars(params, hidden_states(params, config, tokens, mask), mask)


def last_scalars(params: dict, hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """The scalar f32[B] at the last real token of hidden states f[B, L, D]."""
    last = mask.shape[1] - 1 - jnp.argmax(jnp.flip(mask, axis=1), axis=1)
    return scalars(params, jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0])


def ranked_hidden(params: dict, config: ModelConfig, batch: dict) -> tuple[jax.Array, jax.Array]:
    """Hidden states f[B, K, L, D] of ranked answers, of trees f[B, W, D], and their scores f32[B, K].

    Args:
      batch: of `data.pipeline.ranking_batches`.
    """
    if is_trees(batch):
        hidden = tree_hidden(params, config, batch["tokens"], batch["positions"], batch["ends"])
        return hidden, scalars(params, jnp.take_along_axis(hidden, batch["last"][..., None], axis=1))
    prompts, answers, length = batch["tokens"].shape
    mask = batch["mask"].reshape(prompts * answers, length)
    hidden = hidden_states(params, config, batch["tokens"].reshape(prompts * answers, length), mask)
    scores = last_scalars(params, hidden, mask).reshape(prompts, answers)
    return hidden.reshape(prompts, answers, length, -1), scores


def is_trees(batch: dict) -> bool:
    """Whether the ranked answers of a batch are laid out as trees."""
    return "ends" in batch


def packed_hidden(params: dict, config: ModelConfig, batch: dict) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hidden states f[B, L-1, D] of packed rows, the tokens i32[B, L-1] they predict, and which count bool[B, L-1].

    Args:
      batch: tokens, segment_ids, positions i32[B, L] and loss_mask bool[B, L], see `data.pipeline`.
    """
    segments, positions = batch["segment_ids"], batch["positions"]
    hidden = hidden_states(params, config, batch["tokens"], segments > 0, segment_ids=segments, positions=positions)
    return hidden[:, :-1], batch["tokens"][:, 1:], batch["loss_mask"][:, 1:]
