"""Logits, chunked log-probabilities and scalar heads."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.models import chunks
from icegrt_jax.models.heads import (
    entropy_of,
    init_params,
    pick_logprobs,
    scalars,
    token_logprobs,
    token_loss,
    unembed,
)
from tests.models.examples import CONFIG, make_params, make_tokens


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 3 tokens, over which 2 rows of 7 do not divide."""
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 0)
    monkeypatch.setattr(chunks, "MIN_CHUNK", 3)
    assert chunks.chunk_length(14, CONFIG.vocab_size) == 3


def test_logprobs_and_entropy_of_a_hand_worked_row():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]])) + 3.0
    np.testing.assert_allclose(pick_logprobs(logits, jnp.array([1])), [np.log(0.25)], rtol=1e-6)
    np.testing.assert_allclose(entropy_of(logits), [1.5 * np.log(2)], rtol=1e-6)


def test_entropy_stays_finite_where_a_token_is_impossible():
    logits = jnp.array([[0.0, 0.0, -1e30]])
    np.testing.assert_allclose(entropy_of(logits), [np.log(2)], rtol=1e-6)


def test_logits_are_products_with_the_embedding_or_the_head():
    hidden = jax.random.normal(jax.random.key(0), (2, 3, CONFIG.d_model))
    params = make_params()
    np.testing.assert_allclose(unembed(params, CONFIG, hidden), hidden @ params["embed"]["embedding"].T, atol=1e-5)
    untied = dataclasses.replace(CONFIG, tie_embeddings=False)
    params = make_params(untied)
    np.testing.assert_allclose(unembed(params, untied, hidden), hidden @ params["lm_head"]["kernel"], atol=1e-5)


MASKS = {  # which tokens count, and how many of a row at most
    "all": (jnp.ones((2, 7), jnp.bool_), 7),
    "some": (jnp.array([[0, 1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1]], jnp.bool_), 3),
    "first": (jnp.arange(7)[None] < jnp.array([[4], [2]]), 7),
}


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("counting", MASKS)
@pytest.mark.parametrize("kind", ["cpu", "tpu"])
def test_chunked_logprobs_equal_the_full_softmax_and_so_do_their_gradients(
    small_chunks, tie_embeddings, temperature, counting, kind, monkeypatch
):
    monkeypatch.setattr(chunks, "platform", lambda: kind)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS_ACCELERATOR", 0)
    config = dataclasses.replace(CONFIG, tie_embeddings=tie_embeddings)
    params, (mask, most) = make_params(config), MASKS[counting]
    hidden = jax.random.normal(jax.random.key(3), (2, 7, config.d_model))
    targets = make_tokens(2, 7)

    def chunked(params, hidden):
        logprobs, entropy = token_logprobs(params, config, hidden, targets, mask, most=most, temperature=temperature)
        return jnp.sum(jnp.sin(logprobs)), (logprobs, entropy)

    def summed(params, hidden):
        loss = lambda logprobs, _, mask: (jnp.sum(jnp.where(mask, jnp.sin(logprobs), 0.0)), {"seen": jnp.sum(mask)})
        return token_loss(loss, params, config, hidden, targets, mask, most=most, temperature=temperature)

    def full(params, hidden):
        logprobs = jax.nn.log_softmax(unembed(params, config, hidden) / temperature)
        entropy = jnp.where(mask, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1), 0.0)
        chosen = jnp.where(mask, jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0], 0.0)
        return jnp.sum(jnp.sin(chosen)), (chosen, entropy)

    run = lambda f: jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(params, hidden)
    expected = run(full)
    chex.assert_trees_all_close(run(chunked), expected, atol=2e-5)
    (loss, metrics), grads = run(summed)
    chex.assert_trees_all_close((loss, grads), (expected[0][0], expected[1]), atol=2e-5)
    assert metrics["seen"] == mask.sum()


@pytest.mark.parametrize("tie_embeddings", [True, False], ids=["tied", "untied"])
def test_the_kl_to_a_reference_is_differentiated_chunk_by_chunk(tie_embeddings, small_chunks):
    config = dataclasses.replace(CONFIG, tie_embeddings=tie_embeddings)
    params, reference, (mask, most) = make_params(config), make_params(config, seed=4), MASKS["some"]
    hidden, ref_hidden = jax.random.normal(jax.random.key(3), (2, 2, 7, config.d_model))
    targets, weights = make_tokens(2, 7), jax.random.normal(jax.random.key(5), (2, 7))

    def chunked(params, hidden, reference, ref_hidden):
        def loss(logprobs, entropy, mask, weights, *, kl):
            return jnp.sum(jnp.where(mask, weights * kl**2, 0.0)), {"kl": jnp.sum(jnp.where(mask, kl, 0.0))}

        return token_loss(
            loss, params, config, hidden, targets, mask, weights, most=most, temperature=0.7,
            reference=(reference, ref_hidden, 0.5),
        )  # fmt: skip

    def full(params, hidden, reference, ref_hidden):
        ours, theirs = (
            jax.nn.softmax(unembed(*model) / temperature)
            for *model, temperature in ((params, config, hidden, 0.7), (reference, config, ref_hidden, 0.5))
        )
        kl = jnp.sum(ours * (jnp.log(ours) - jnp.log(theirs)), axis=-1)
        return jnp.sum(jnp.where(mask, weights * kl**2, 0.0)), {"kl": jnp.sum(jnp.where(mask, kl, 0.0))}

    arrays = (params, hidden, reference, ref_hidden)
    run = lambda f: jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(*arrays)
    chex.assert_trees_all_close(run(chunked), run(full), atol=2e-5, rtol=2e-5)
    still = jax.jit(jax.grad(lambda *xs: chunked(*xs)[0], argnums=(2, 3)))(*arrays)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(still)), "the reference is held constant"
    program = str(jax.make_jaxpr(jax.grad(lambda *xs: chunked(*xs)[0]))(*arrays))
    assert f"[2,7,{config.vocab_size}]" not in program and f"[14,{config.vocab_size}]" not in program


def test_no_logits_are_made_of_chunks_in_which_no_token_counts(small_chunks):
    """Seen by what a token that does not count would do: infinite weights give NaN wherever they are used."""
    mask = jnp.zeros((2, 7), jnp.bool_)
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), make_params())
    loss = lambda logprobs, entropy, mask: (jnp.sum(logprobs), {"entropy": jnp.sum(entropy)})
    made = jax.jit(lambda mask: token_loss(
        loss, broken, CONFIG, jnp.ones((2, 7, CONFIG.d_model)), make_tokens(2, 7), mask, most=7
    ))  # fmt: skip
    assert made(mask)[0] == 0 and jnp.isnan(made(mask.at[1, 3].set(True))[0])


def test_a_batch_below_the_chunk_size_gives_the_same_logprobs(small_chunks, monkeypatch):
    params, targets, (mask, _) = make_params(), make_tokens(2, 7), MASKS["some"]
    hidden = jax.random.normal(jax.random.key(3), (2, 7, CONFIG.d_model))
    read = lambda *args: token_logprobs(args[0], CONFIG, *args[1:], most=7)
    compute = lambda: jax.jit(lambda *args: read(*args))(params, hidden, targets, mask)
    in_chunks = compute()
    monkeypatch.setattr(chunks, "MIN_CHUNK", 14)
    chex.assert_trees_all_close(compute(), in_chunks, atol=1e-5)


def test_the_entropy_carries_no_gradient():
    hidden = jax.random.normal(jax.random.key(3), (1, 4, CONFIG.d_model))
    entropy = lambda hidden: token_logprobs(
        make_params(), CONFIG, hidden, make_tokens(1, 4), jnp.ones((1, 4), jnp.bool_), most=4
    )[1].sum()  # fmt: skip
    chex.assert_trees_all_equal(jax.jit(jax.grad(entropy))(hidden), jnp.zeros_like(hidden))


def test_scalars_are_kernel_and_bias_in_float32():
    params = {"head": {"kernel": jnp.array([[1.0], [-2.0]]), "bias": jnp.array([0.5])}}
    hidden = jnp.array([[[3.0, 1.0], [0.0, 0.25]]], jnp.bfloat16)
    values = scalars(params, hidden)
    assert values.dtype == jnp.float32
    chex.assert_trees_all_equal(values, jnp.array([[1.5, 0.0]]))


def test_a_scalar_model_has_a_small_random_head_and_no_lm_head():
    wide = dataclasses.replace(CONFIG, d_model=400, tie_embeddings=False)
    params = jax.jit(lambda key: init_params(key, wide, scalar_head=True))(jax.random.key(0))
    assert params.keys() == {"embed", "layers", "final_norm", "head"}
    assert params["head"]["bias"] == 0.0
    np.testing.assert_allclose(jnp.std(params["head"]["kernel"]), 401**-0.5, rtol=0.1)
