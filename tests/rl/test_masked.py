import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.rl import (
    last_valid,
    masked_mean,
    masked_sum,
    masked_var,
    normalize_advantages,
    whiten,
    whitening_std,
)

from . import references
from .examples import GARBAGE, MASK, rollout, soiled

X = jnp.array([[1.0, 3.0, 9.0], [2.0, 4.0, 5.0]])
M = jnp.array([[True, True, False], [True, True, True]])


def test_reductions_of_a_hand_worked_batch():
    # Valid: 1, 3, 2, 4, 5; sum 15, mean 3, squared distances 4 + 0 + 1 + 1 + 4 = 10.
    assert masked_sum(X, M) == 15.0
    assert masked_mean(X, M) == 3.0
    assert masked_var(X, M) == 2.0


def test_whitening_a_hand_worked_batch():
    # (x - 3) / sqrt(2)
    expected = np.array([[-2.0, 0.0, 0.0], [-1.0, 1.0, 2.0]]) / np.sqrt(2.0)
    np.testing.assert_allclose(whiten(X, M), expected, atol=1e-6)
    np.testing.assert_allclose(whiten(X, M, shift_mean=False), np.where(M, expected + 3.0, 0.0), atol=1e-6)


def test_reductions_equal_the_reference():
    (x,) = rollout(0, 1)
    np.testing.assert_allclose(masked_mean(x, MASK), references.mean(x, MASK), rtol=1e-5)
    np.testing.assert_allclose(masked_var(x, MASK), references.var(x, MASK), rtol=1e-5)
    for shift_mean in (True, False):
        np.testing.assert_allclose(
            whiten(x, MASK, shift_mean=shift_mean), references.whiten(x, MASK, shift_mean), atol=1e-5
        )


def test_an_empty_batch_gives_zero_and_not_nan():
    nothing = jnp.zeros_like(M)
    for reduce in (masked_sum, masked_mean, masked_var):
        assert reduce(X, nothing) == 0.0
    chex.assert_trees_all_equal(whiten(X, nothing), jnp.zeros_like(X))


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_var, whiten, normalize_advantages])
def test_padding_changes_neither_statistic_nor_gradient(function):
    (x,) = rollout(1, 1)
    weighted = lambda x: jnp.sum(function(x, MASK) ** 3)
    gradients = jax.jit(jax.value_and_grad(weighted))
    clean = gradients(x)
    chex.assert_tree_all_finite(clean)
    for garbage in GARBAGE:
        chex.assert_trees_all_equal(clean, gradients(soiled(x, MASK, garbage)))


def test_last_valid_is_the_eos_or_the_last_slot():
    mask = jnp.array([[True, True, False], [True, True, True], [False, False, False]])
    expected = jnp.array([[False, True, False], [False, False, True], [False, False, False]])
    chex.assert_trees_all_equal(last_valid(mask), expected)


def test_shares_of_devices_add_up_to_the_statistics_of_the_whole():
    (x,) = rollout(2, 1)
    total = MASK.sum()
    mean = masked_mean(x, MASK)
    shares = jax.vmap(lambda x, mask: masked_mean(x, mask, total))(x[:, None], MASK[:, None])
    np.testing.assert_allclose(shares.sum(), mean, rtol=1e-5)
    shares = jax.vmap(lambda x, mask: masked_var(x, mask, total, mean))(x[:, None], MASK[:, None])
    np.testing.assert_allclose(shares.sum(), masked_var(x, MASK), rtol=1e-5)


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_over_devices_equals_whitening_the_whole(shift_mean):
    (x,) = rollout(3, 1)
    per_device = lambda x, mask: whiten(x, mask, shift_mean=shift_mean, axis_name="device")
    split = jax.vmap(per_device, axis_name="device")(x[:, None], MASK[:, None])[:, 0]
    np.testing.assert_allclose(split, whiten(x, MASK, shift_mean=shift_mean), atol=1e-6)


@pytest.mark.parametrize("method", ["whiten", "mean", "none"])
def test_normalizing_over_devices_equals_normalizing_the_whole(method):
    (x,) = rollout(3, 1)
    per_device = lambda x, mask: normalize_advantages(x, mask, method, axis_name="device")
    split = jax.vmap(per_device, axis_name="device")(x[:, None], MASK[:, None])[:, 0]
    np.testing.assert_allclose(split, normalize_advantages(x, MASK, method), atol=1e-6)


def test_each_method_normalizes_what_it_says():
    chex.assert_trees_all_equal(normalize_advantages(X, M), whiten(X, M))
    chex.assert_trees_all_equal(normalize_advantages(X, M, "mean"), jnp.array([[-2.0, 0.0, 0.0], [-1.0, 1.0, 2.0]]))
    chex.assert_trees_all_equal(normalize_advantages(X, M, "none"), jnp.where(M, X, 0.0))
    clipped = jnp.array([[-1.5, 0.0, 0.0], [-1.0, 1.0, 1.5]])
    chex.assert_trees_all_equal(normalize_advantages(X, M, "mean", clip=1.5), clipped)


def test_mistakes_are_named(unchecked):
    with pytest.raises(TypeError, match="x is int32"):
        masked_mean(jnp.ones((2, 3), jnp.int32), M)
    with pytest.raises(TypeError, match="mask is float32"):
        masked_mean(X, M.astype(jnp.float32))
    with pytest.raises(ValueError, match="total without mean"):
        masked_var(X, M, total=5)
    with pytest.raises(ValueError, match="'median' does not normalize"):
        normalize_advantages(X, M, "median")


def test_bfloat16_is_reduced_in_float32():
    # 1 + 2^-9 is not a bfloat16; a sum kept in bfloat16 would stop growing at 256.
    x = jnp.ones((2, 512), jnp.bfloat16)
    total = masked_sum(x, jnp.ones_like(x, dtype=jnp.bool_))
    assert total == 1024.0 and total.dtype == jnp.float32


def test_the_whitening_std_is_what_whitening_divides_by():
    (x,) = rollout(11, 1)
    whitened, std = whiten(x, MASK), whitening_std(x, MASK)
    np.testing.assert_allclose(np.where(MASK, x - references.mean(x, MASK), 0.0), whitened * std, atol=1e-5)
    np.testing.assert_allclose(std, np.sqrt(references.var(x, MASK) + 1e-8), rtol=1e-5)
