import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.rl import exact_kl, kl_estimate

from . import references
from .examples import GARBAGE, MASK, normal, rollout, soiled

HALF, QUARTER = np.log(0.5), np.log(0.25)


def test_estimators_of_a_hand_worked_token():
    # Policy 1/2, reference 1/4: r = 1/2, log r = -log 2.
    logprobs, ref_logprobs = jnp.full((1, 1), HALF), jnp.full((1, 1), QUARTER)
    log2 = np.log(2.0)
    for kind, expected in {"k1": log2, "k2": log2**2 / 2, "k3": 0.5 - 1 + log2}.items():
        np.testing.assert_allclose(kl_estimate(logprobs, ref_logprobs, kind), [[expected]], rtol=1e-6)


def test_exact_kl_of_a_hand_worked_pair():
    # (1/2, 1/2) against (1/4, 3/4): log 2 / 2 + log(2/3) / 2; logits may be shifted by any constant.
    logits = jnp.array([[HALF, HALF]]) + 3.0
    ref_logits = jnp.array([[QUARTER, np.log(0.75)]])
    np.testing.assert_allclose(exact_kl(logits, ref_logits), [(np.log(2) + np.log(2 / 3)) / 2], rtol=1e-5)
    np.testing.assert_allclose(kl_estimate(logits, ref_logits, "exact"), exact_kl(logits, ref_logits))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_estimators_equal_the_reference(kind):
    logprobs, ref_logprobs = rollout(0, 2)
    expected = np.vectorize(references.kl_estimate)(logprobs.astype(float), ref_logprobs.astype(float), kind)
    np.testing.assert_allclose(kl_estimate(logprobs, ref_logprobs, kind), expected, atol=1e-5, rtol=1e-5)


def test_exact_kl_equals_the_reference():
    logits, ref_logits = normal(1, 2, 3, 7)
    expected = [references.exact_kl(*pair) for pair in zip(logits.astype(float), ref_logits.astype(float))]
    np.testing.assert_allclose(exact_kl(logits, ref_logits), expected, rtol=1e-5)


def test_samples_approach_the_exact_kl():
    logits = jnp.array([0.3, -0.2, 0.1, 0.0])
    ref_logits = jnp.array([0.0, 0.1, -0.2, 0.2])
    tokens = jax.random.categorical(jax.random.key(0), logits, shape=(200_000,))
    logprobs, ref_logprobs = (jax.nn.log_softmax(x)[tokens] for x in (logits, ref_logits))
    exact = exact_kl(logits, ref_logits)
    # k1 and k3 are unbiased; k2 is close because the distributions are.
    for kind, rtol in {"k1": 0.03, "k3": 0.01, "k2": 0.05}.items():
        np.testing.assert_allclose(jnp.mean(kl_estimate(logprobs, ref_logprobs, kind)), exact, rtol=rtol)


def test_k2_has_the_gradient_of_the_kl_k3_of_the_reversed_one_and_k1_none():
    logits, ref_logits = normal(2, 2, 6)
    probabilities = jax.nn.softmax(logits)

    def expected_estimate(logits, kind):
        # The expectation over samples, the sampling distribution held constant as in training.
        return jnp.sum(probabilities * kl_estimate(jax.nn.log_softmax(logits), jax.nn.log_softmax(ref_logits), kind))

    true_gradient = jax.grad(lambda logits: exact_kl(logits, ref_logits))(logits)
    np.testing.assert_allclose(jax.grad(expected_estimate)(logits, "k2"), true_gradient, atol=1e-6)
    np.testing.assert_allclose(jax.grad(expected_estimate)(logits, "k1"), np.zeros(6), atol=1e-6)
    reversed_gradient = jax.grad(lambda logits: exact_kl(ref_logits, logits))(logits)
    np.testing.assert_allclose(jax.grad(expected_estimate)(logits, "k3"), reversed_gradient, atol=1e-6)
    assert jnp.abs(reversed_gradient - true_gradient).max() > 0.1


def test_equal_policies_have_no_kl():
    (logprobs,) = rollout(3, 1)
    for kind in ("k1", "k2", "k3"):
        chex.assert_trees_all_equal(kl_estimate(logprobs, logprobs, kind), jnp.zeros_like(logprobs))
    np.testing.assert_allclose(kl_estimate(logprobs, logprobs, "exact"), np.zeros(len(logprobs)), atol=1e-7)


def test_k2_and_k3_are_never_negative():
    logprobs, ref_logprobs = rollout(4, 2)
    for kind in ("k2", "k3"):
        assert (kl_estimate(logprobs, ref_logprobs, kind) >= 0).all()


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "exact"])
def test_padding_changes_neither_estimate_nor_gradient(kind):
    shape = (2, *MASK.shape, 3) if kind == "exact" else (2, *MASK.shape)
    where = MASK[..., None] if kind == "exact" else MASK
    logprobs, ref_logprobs = normal(5, *shape)

    def loss(logprobs, ref_logprobs):
        estimate = kl_estimate(logprobs, ref_logprobs, kind, mask=MASK)
        return jnp.sum(estimate**2), estimate

    gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    clean = gradients(jnp.asarray(logprobs), jnp.asarray(ref_logprobs))
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_equal(clean[0][1], jnp.where(MASK, clean[0][1], 0.0))
    for garbage in GARBAGE:
        dirty = gradients(soiled(logprobs, where, garbage), soiled(ref_logprobs, where, -garbage))
        chex.assert_trees_all_equal(clean, dirty)


def test_tokens_that_cannot_occur_add_nothing():
    logits = jnp.array([0.0, 1.0, -jnp.inf])
    ref_logits = jnp.array([0.5, 0.2, -jnp.inf])
    value, gradient = jax.value_and_grad(exact_kl)(logits, ref_logits)
    np.testing.assert_allclose(value, exact_kl(logits[:2], ref_logits[:2]), rtol=1e-6)
    chex.assert_tree_all_finite(gradient)
    assert exact_kl(logits, jnp.array([0.5, -jnp.inf, 0.0])) == jnp.inf


def test_mistakes_are_named(unchecked):
    x = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="'k4' is no KL estimator"):
        kl_estimate(x, x, "k4")
    with pytest.raises(TypeError, match="ref_logprobs is int32"):
        kl_estimate(x, jnp.zeros((2, 3), jnp.int32))
    with pytest.raises(AssertionError):
        kl_estimate(x, x, mask=jnp.ones((3, 2), jnp.bool_))
