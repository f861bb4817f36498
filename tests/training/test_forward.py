"""What is read off the roles, against float64 NumPy one sequence at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.models import chunks
from icegrt_jax.sampling import Rows
from icegrt_jax.training import forward, packing
from tests.models.examples import make_params, reference_hidden
from tests.training import examples
from tests.training.examples import POLICY, SCALAR, B, T, make_experience, make_policy, make_scalar

response_logprobs = jax.jit(forward.response_logprobs, static_argnames=("config", "temperature"))
response_values = jax.jit(examples.response_values, static_argnames=("config", "rows"))
answer_scores = jax.jit(forward.answer_scores, static_argnames="config")

EXPERIENCE = make_experience()
ARGS = (EXPERIENCE.prompts, EXPERIENCE.prompt_mask, EXPERIENCE.responses, EXPERIENCE.mask)
ROWS = (0, 7, 15)  # a prompt of 1 token, two of 2 and 4


def sequences():
    """(row, prompt ids, response ids) without any padding."""
    prompts, prompt_mask, responses, mask = map(np.asarray, ARGS)
    return [(b, prompts[b][prompt_mask[b]], responses[b][mask[b]]) for b in ROWS]


def reference_log_softmax(seed, tokens, temperature):
    """float64[L, V] of the policy made from `seed`."""
    unrolled = dataclasses.replace(POLICY, scan_layers=False)
    params = make_params(unrolled, seed=seed)
    logits = reference_hidden(params, unrolled, tokens) @ np.asarray(params["embed"]["embedding"], np.float64).T
    logits = logits / temperature
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def reference_scalars(seed, tokens):
    """float64[L] of the scalar model made from `seed`."""
    unrolled = dataclasses.replace(SCALAR, scan_layers=False)
    params = make_params(unrolled, seed=seed, scalar_head=True)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["head"])
    return (reference_hidden(params, unrolled, tokens) @ head["kernel"])[:, 0] + head["bias"][0]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_and_entropy_equal_a_float64_reference(temperature):
    logprobs, entropy = response_logprobs(make_policy(0), POLICY, *ARGS, temperature=temperature)
    for b, prompt, response in sequences():
        reference = reference_log_softmax(0, np.concatenate([prompt, response]), temperature)
        before = slice(len(prompt) - 1, len(prompt) - 1 + len(response))
        expected = reference[before][np.arange(len(response)), response]
        np.testing.assert_allclose(logprobs[b, : len(response)], expected, atol=2e-5)
        uncertain = -(np.exp(reference) * reference).sum(-1)[before]
        np.testing.assert_allclose(entropy[b, : len(response)], uncertain, atol=2e-5)
        assert (logprobs[b, len(response) :] == 0).all() and (entropy[b, len(response) :] == 0).all()


@pytest.mark.parametrize("rows", [Rows(10, 14), Rows(12, 14), Rows(15, 12), Rows(8, 20)], ids=str)
def test_what_is_read_does_not_depend_on_who_shares_the_row(rows):
    """Values, log-probs and exact KL of each token in rows that several sequences share, against one row each."""
    laid_out = packing.Packing(ARGS[1], ARGS[3], rows)
    assert laid_out.shared
    laid = laid_out.tokens(ARGS[0], ARGS[2])
    assert laid.tokens.shape == rows and (np.asarray(laid.segment_ids).max(1) > 0).any()
    read = jax.jit(forward.rows_logprobs, static_argnames=("config", "temperature"))
    for got, alone in zip(
        read(make_policy(0), POLICY, laid, temperature=0.7),
        response_logprobs(make_policy(0), POLICY, *ARGS, temperature=0.7),
    ):
        np.testing.assert_allclose(laid_out.responses(got), alone, atol=2e-5)
        assert (np.asarray(got)[~np.asarray(laid.mask)] == 0).all()
    values = response_values(make_scalar(1), SCALAR, *ARGS)
    np.testing.assert_allclose(response_values(make_scalar(1), SCALAR, *ARGS, rows=rows), values, atol=2e-5)
    after = forward.rows_scalars(make_scalar(2), SCALAR, laid)
    tokens, seen = jnp.concatenate(ARGS[0::2], axis=1), jnp.concatenate(ARGS[1::2], axis=1)
    np.testing.assert_allclose(laid_out.last(after), answer_scores(make_scalar(2), SCALAR, tokens, seen), atol=2e-5)


def test_a_value_is_that_of_the_state_before_its_token():
    values = response_values(make_scalar(1), SCALAR, *ARGS)
    for b, prompt, response in sequences():
        expected = reference_scalars(1, np.concatenate([prompt, response]))
        before = slice(len(prompt) - 1, len(prompt) - 1 + len(response))
        np.testing.assert_allclose(values[b, : len(response)], expected[before], atol=2e-5)
        assert (values[b, len(response) :] == 0).all()


def test_a_score_is_read_at_the_last_real_token():
    prompts, prompt_mask, responses, mask = ARGS
    tokens, seen = jnp.concatenate([prompts, responses], axis=1), jnp.concatenate([prompt_mask, mask], axis=1)
    scores = answer_scores(make_scalar(2), SCALAR, tokens, seen)
    for b, prompt, response in sequences():
        np.testing.assert_allclose(scores[b], reference_scalars(2, np.concatenate([prompt, response]))[-1], atol=2e-5)
    # The same sequences without a gap between prompt and response, right-padded as rankings are.
    order = jnp.argsort(~seen, axis=1, stable=True)
    moved = answer_scores(make_scalar(2), SCALAR, *(jnp.take_along_axis(x, order, axis=1) for x in (tokens, seen)))
    np.testing.assert_allclose(moved, scores, atol=1e-5)


@pytest.mark.parametrize("garbage", [1, 23])
def test_tokens_in_the_padding_change_nothing(garbage):
    prompts, prompt_mask, responses, mask = ARGS
    soiled = (jnp.where(prompt_mask, prompts, garbage), prompt_mask, jnp.where(mask, responses, garbage), mask)
    for clean, dirty in zip(
        response_logprobs(make_policy(0), POLICY, *ARGS, temperature=1.0),
        response_logprobs(make_policy(0), POLICY, *soiled, temperature=1.0),
    ):
        np.testing.assert_array_equal(clean, dirty)
    np.testing.assert_array_equal(
        response_values(make_scalar(1), SCALAR, *ARGS), response_values(make_scalar(1), SCALAR, *soiled)
    )


def test_a_chunk_at_a_time_gives_the_same_logprobs(monkeypatch):
    whole = response_logprobs(make_policy(0), POLICY, *ARGS, temperature=1.0)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 0)
    monkeypatch.setattr(chunks, "MIN_CHUNK", 15)
    assert chunks.chunk_length(B * T, POLICY.vocab_size) == 15  # of 128 tokens: the last chunk is not full
    chunked = jax.jit(lambda params: forward.response_logprobs(params, POLICY, *ARGS, temperature=1.0))(make_policy(0))
    for a, b in zip(whole, chunked):
        np.testing.assert_allclose(a, b, atol=1e-6)
