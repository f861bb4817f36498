"""The decoder against float64 NumPy, and what must hold of any causal decoder."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.models import transformer
from icegrt_jax.models.cache import empty_cache
from icegrt_jax.models.heads import init_params
from icegrt_jax.models.rope import layer_frequencies
from icegrt_jax.models.tree import unstacked
from tests.models.examples import CONFIG, EVERYTHING, make_params, make_tokens, reference_hidden, stacked

hidden_states = jax.jit(transformer.hidden_states, static_argnames="config")
prefill = jax.jit(transformer.prefill, static_argnames="config")
decode_step = jax.jit(transformer.decode_step, static_argnames="config")

FLAVOURS = {
    "unrolled": (CONFIG, make_params()),
    "scanned": stacked(CONFIG, make_params()),
    "everything": stacked(EVERYTHING, make_params(EVERYTHING)),
}
either = pytest.mark.parametrize("config, params", FLAVOURS.values(), ids=FLAVOURS.keys())


@either
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_hidden_states_equal_a_float64_reference(config, params, num_kv_heads):
    grouped = dataclasses.replace(CONFIG, num_kv_heads=num_kv_heads)
    params, tokens = make_params(grouped), make_tokens(1, 9)
    expected = reference_hidden(params, grouped, tokens[0])
    if config.scan_layers:
        grouped, params = stacked(grouped, params)
    hidden = hidden_states(params, grouped, tokens, jnp.ones((1, 9), jnp.bool_))[0]
    np.testing.assert_allclose(hidden, expected, atol=2e-5)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_every_switch_of_the_families_equals_the_reference(scan_layers):
    config, params, tokens = EVERYTHING, make_params(EVERYTHING), make_tokens(1, 9)
    expected = reference_hidden(params, config, tokens[0])
    if scan_layers:
        config, params = stacked(config, params)
    hidden = hidden_states(params, config, tokens, jnp.ones((1, 9), jnp.bool_))[0]
    np.testing.assert_allclose(hidden, expected, atol=5e-5)


def test_scaled_frequencies_are_those_worked_out_by_hand():
    factor, theta = 4.0, 100.0
    # H = 8: wavelengths 2π, 20, 63, 199 tokens, which is 10.2, 3.2, 1.02 and 0.32 turns in 64 tokens.
    base = theta ** (-np.arange(4) / 4)
    config = dataclasses.replace(CONFIG, rope_theta=theta, rope_factor=factor, rope_scaling="linear")
    np.testing.assert_allclose(layer_frequencies(config), np.tile(base / factor, (2, 1)), rtol=1e-6)
    llama3 = {"rope_low_freq_factor": 0.5, "rope_high_freq_factor": 2.5, "rope_original_length": 64}
    config = dataclasses.replace(config, rope_scaling="llama3", **llama3)
    kept = (64 * base[2] / (2 * np.pi) - 0.5) / 2.0
    blended = base[2] * (kept + (1 - kept) / factor)
    expected = [base[0], base[1], blended, base[3] / factor]
    np.testing.assert_allclose(layer_frequencies(config)[0], expected, rtol=1e-6)
    # Layers with a window and a base of their own are not scaled.
    config = dataclasses.replace(config, local_rope_theta=16.0, layer_windows=(3, 0))
    np.testing.assert_allclose(layer_frequencies(config), [[1.0, 0.5, 0.25, 0.125], expected], rtol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"activation": "relu"}, "model.activation='relu'; expected one of 'silu', 'gelu_tanh'"),
        ({"layer_windows": (3,)}, r"model.layer_windows=\(3,\); expected one per layer \(2\)"),
        ({"rope_scaling": "yarn"}, "model.rope_scaling='yarn'"),
        ({"rope_scaling": "llama3"}, "llama3 scaling needs 0 < low < high"),
        ({"rope_scaling": "linear", "rope_factor": 0.0}, "model.rope_factor=0.0"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_with_its_field(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_scanned_layers_have_the_gradients_of_unrolled_ones():
    tokens, mask = make_tokens(2, 6), jnp.ones((2, 6), jnp.bool_)
    loss = lambda params, config: jnp.sum(jnp.sin(transformer.hidden_states(params, config, tokens, mask)))
    grad = jax.jit(jax.grad(loss), static_argnums=1)
    unrolled, params = FLAVOURS["unrolled"]
    expected = stacked(unrolled, grad(params, unrolled))[1]
    scanned, params = FLAVOURS["scanned"]
    chex.assert_trees_all_close(grad(params, scanned), expected, atol=1e-4)


@either
def test_no_state_depends_on_a_later_token(config, params):
    length, query = 7, 3
    tokens, mask = make_tokens(1, length), jnp.ones((1, length), jnp.bool_)
    embedded = params["embed"]["embedding"][tokens[0]]
    one_row_each = {**params, "embed": {"embedding": embedded}}  # token i is row i: its gradient is the row's
    config = dataclasses.replace(config, vocab_size=length)

    def at_query(embedding):
        params = {**one_row_each, "embed": {"embedding": embedding}}
        return jnp.sum(jnp.sin(hidden_states(params, config, jnp.arange(length)[None], mask)[0, query]))

    influence = jnp.abs(jax.jit(jax.grad(at_query))(embedded)).sum(-1)
    assert (influence[: query + 1] > 1e-4).all()
    chex.assert_trees_all_equal(influence[query + 1 :], jnp.zeros((length - query - 1,)))


@either
@pytest.mark.parametrize("left, right", [(3, 0), (0, 3), (2, 2)])
def test_padding_on_either_side_changes_no_real_token(config, params, left, right):
    tokens = make_tokens(2, 6)
    bare = hidden_states(params, config, tokens, jnp.ones((2, 6), jnp.bool_))
    pad = ((0, 0), (left, right))
    mask = jnp.pad(jnp.ones((2, 6), jnp.bool_), pad)
    for filler in (0, 11):
        padded = hidden_states(params, config, jnp.pad(tokens, pad, constant_values=filler), mask)
        np.testing.assert_allclose(padded[:, left : left + 6], bare, atol=1e-5)
        assert jnp.isfinite(padded).all()


@either
def test_packed_segments_equal_separate_rows(config, params):
    first, second = make_tokens(1, 4, seed=1), make_tokens(1, 5, seed=2)
    alone = [hidden_states(params, config, t, jnp.ones(t.shape, jnp.bool_)) for t in (first, second)]
    packed = hidden_states(
        params,
        config,
        jnp.concatenate([first, second, jnp.zeros((1, 2), jnp.int32)], axis=1),
        jnp.arange(11)[None] < 9,
        segment_ids=jnp.array([[1] * 4 + [2] * 5 + [0] * 2], jnp.int32),
        positions=jnp.array([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0]], jnp.int32),
    )
    np.testing.assert_allclose(packed[:, :9], jnp.concatenate(alone, axis=1), atol=1e-5)


@either
def test_decoding_with_a_cache_equals_one_forward(config, params):
    prompt, total, slots = 4, 8, 10  # two slots stay empty
    tokens = make_tokens(2, total)
    mask = jnp.ones((2, total), jnp.bool_).at[0, :2].set(False)  # the first prompt is shorter
    expected = hidden_states(params, config, tokens, mask)
    cache = empty_cache(config, 2, slots)
    hidden, cache = prefill(params, config, tokens[:, :prompt], mask[:, :prompt], cache)
    np.testing.assert_allclose(hidden[mask[:, :prompt]], expected[:, :prompt][mask[:, :prompt]], atol=1e-5)
    seen = jnp.pad(mask, ((0, 0), (0, slots - total)))
    for i in range(prompt, total):
        slot_mask = seen & (jnp.arange(slots) <= i)[None]
        position = slot_mask.sum(-1, dtype=jnp.int32) - 1
        hidden, cache = decode_step(params, config, tokens[:, i], position, slot_mask, cache, jnp.int32(i))
        np.testing.assert_allclose(hidden, expected[:, i], atol=1e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
@either
def test_remat_changes_neither_states_nor_gradients(config, params, remat):
    tokens, mask = make_tokens(2, 6), jnp.ones((2, 6), jnp.bool_)
    loss = lambda params, config: jnp.sum(jnp.sin(transformer.hidden_states(params, config, tokens, mask)))
    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    kept, recomputed = run(params, config), run(params, dataclasses.replace(config, remat=remat))
    chex.assert_trees_all_close(kept, recomputed, atol=1e-4)


def test_rotation_depends_on_distance_only():
    config, params = FLAVOURS["unrolled"]
    tokens, mask = make_tokens(1, 6), jnp.ones((1, 6), jnp.bool_)
    near = hidden_states(params, config, tokens, mask)
    far = hidden_states(params, config, tokens, mask, positions=jnp.arange(6)[None] + 40)
    np.testing.assert_allclose(far, near, atol=1e-4)
    doubled = hidden_states(params, config, tokens, mask, positions=jnp.arange(6)[None] * 2)
    assert jnp.abs(doubled - near).max() > 0.01


@either
def test_bfloat16_compute_keeps_float32_parameters_and_stays_close(config, params):
    tokens, mask = make_tokens(2, 6), jnp.ones((2, 6), jnp.bool_)
    exact = hidden_states(params, config, tokens, mask)
    rough = hidden_states(params, dataclasses.replace(config, dtype="bfloat16"), tokens, mask)
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.15)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("base", [CONFIG, EVERYTHING], ids=["plain", "everything"])
def test_num_params_counts_the_tree(base, scan_layers, tie_embeddings):
    config = dataclasses.replace(base, scan_layers=scan_layers, tie_embeddings=tie_embeddings)
    params = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
    assert config.num_params == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_a_stack_taken_apart_is_the_layers_it_was_made_of():
    params = make_params()
    config, joined = stacked(CONFIG, params)
    apart, unrolled = unstacked(joined, config)
    chex.assert_trees_all_equal(apart, params)
    assert unrolled == CONFIG and unstacked(params, CONFIG) == (params, CONFIG)


def test_parameters_of_another_shape_are_named():
    params = {**FLAVOURS["unrolled"][1], "embed": {"embedding": jnp.zeros((CONFIG.vocab_size, 8))}}
    tokens = make_tokens(1, 3)
    with pytest.raises(ValueError, match=r"embed/embedding has the shape \(50, 8\); this model's is \(50, 24\)"):
        jax.eval_shape(lambda: transformer.hidden_states(params, CONFIG, tokens, jnp.ones((1, 3), jnp.bool_)))
