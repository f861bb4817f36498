import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.rl import gae, length_adaptive_lam

from . import references
from .examples import GARBAGE, MASK, normal, rollout, soiled


def test_a_hand_worked_batch():
    # gamma = lam = 1/2. Row 0 ends at its second token: delta = (0 + 2/2 - 1, 1 - 2) = (0, -1),
    # A_1 = -1, A_0 = 0 - 1/4. Row 1: delta = (1.5 + 0.5 - 2, 0 + 2 - 1, 1 - 4) = (0, 1, -3),
    # A_2 = -3, A_1 = 1 - 3/4, A_0 = 0 + 1/16.
    rewards = jnp.array([[0.0, 1.0, 9.0], [1.5, 0.0, 1.0]])
    values = jnp.array([[1.0, 2.0, 9.0], [2.0, 1.0, 4.0]])
    mask = jnp.array([[True, True, False], [True, True, True]])
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    chex.assert_trees_all_equal(advantages, jnp.array([[-0.25, -1.0, 0.0], [0.0625, 0.25, -3.0]]))
    chex.assert_trees_all_equal(returns, jnp.array([[0.75, 1.0, 0.0], [2.0625, 1.25, 1.0]]))


def test_a_hand_worked_bootstrap():
    # The value after the last token is 4 in row 1 only: its last delta is 1 + 4 - 2 = 3.
    mask = jnp.array([[True, False], [True, True]])
    rewards, values = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.5, 0.0], [1.0, 2.0]])
    advantages, _ = gae(rewards, values, mask, gamma=1.0, lam=1.0, bootstrap=jnp.array([0.0, 4.0]))
    chex.assert_trees_all_equal(advantages, jnp.array([[0.5, 0.0], [4.0, 3.0]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("bootstrap", [None, normal(1, 4)])
def test_gae_equals_the_reference(gamma, lam, bootstrap):
    rewards, values = rollout(0, 2)
    expected = references.gae(rewards, values, MASK, gamma, lam, bootstrap)
    actual = gae(rewards, values, MASK, gamma=gamma, lam=lam, bootstrap=bootstrap)
    for a, e in zip(actual, expected):
        np.testing.assert_allclose(a, e, atol=1e-5)


def test_lam_one_gives_discounted_reward_sums_minus_values():
    rewards, values = rollout(2, 2)
    advantages, returns = gae(rewards, values, MASK, gamma=0.9, lam=1.0)
    for b, n in enumerate(MASK.sum(axis=1)):
        for t in range(n):
            discounted = sum(0.9 ** (k - t) * rewards[b, k] for k in range(t, n))
            np.testing.assert_allclose(returns[b, t], discounted, atol=1e-5)
            np.testing.assert_allclose(advantages[b, t], discounted - values[b, t], atol=1e-5)


def test_lam_zero_gives_the_td_error():
    rewards, values = rollout(3, 2)
    inside = np.where(MASK, values, 0.0)
    next_values = np.concatenate([inside[:, 1:], np.zeros((4, 1))], axis=1)
    advantages, _ = gae(rewards, values, MASK, gamma=0.9, lam=0.0)
    np.testing.assert_allclose(advantages, np.where(MASK, rewards + 0.9 * next_values - values, 0.0), atol=1e-6)


def test_padding_changes_neither_advantages_nor_gradient():
    rewards, values = rollout(4, 2)

    def loss(rewards, values):
        advantages, returns = gae(rewards, values, MASK, bootstrap=jnp.ones(4))
        return jnp.sum(advantages**2 + returns), (advantages, returns)

    gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    clean = gradients(jnp.asarray(rewards), jnp.asarray(values))
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_equal(clean[0][1], jax.tree.map(lambda x: jnp.where(MASK, x, 0.0), clean[0][1]))
    for garbage in GARBAGE:
        dirty = gradients(soiled(rewards, MASK, garbage), soiled(values, MASK, -garbage))
        chex.assert_trees_all_equal(clean, dirty)


def test_bootstrap_of_one_row_leaves_the_others_alone():
    rewards, values = rollout(5, 2)
    plain, bootstrapped = (gae(rewards, values, MASK, bootstrap=jnp.array([0.0, v, 0.0, 0.0]))[0] for v in (0.0, 3.0))
    chex.assert_trees_all_equal(np.delete(plain, 1, axis=0), np.delete(bootstrapped, 1, axis=0))
    np.testing.assert_allclose(bootstrapped[1] - plain[1], 3.0 * 0.95 ** np.arange(4, -1, -1), atol=1e-5)


HOLES = np.array([
    [True, True, False, False, True, True, False],
    [False, False, True, False, True, False, False],
    [True, True, True, True, True, True, True],
    [False] * 7,
])  # fmt: skip


@pytest.mark.parametrize("bootstrap", [None, normal(7, 4)], ids=["ended", "cut"])
def test_a_hole_is_passed_over_as_if_its_tokens_were_not_there(bootstrap):
    """What others write between the turns of an answer is no state of value 0."""
    rewards, values = normal(8, 2, 4, 7)
    got = gae(rewards, values, HOLES, gamma=0.9, lam=0.8, bootstrap=bootstrap)
    for b, row in enumerate(HOLES):
        after = None if bootstrap is None else bootstrap[b : b + 1]
        alone = np.ones((1, row.sum()), bool)
        expected = references.gae(rewards[b : b + 1, row], values[b : b + 1, row], alone, 0.9, 0.8, after)
        for a, e in zip(got, expected):
            np.testing.assert_allclose(a[b][row], e[0], atol=1e-5)
            assert not np.asarray(a[b])[~row].any()
    for garbage in GARBAGE:
        dirty = gae(soiled(rewards, HOLES, garbage), soiled(values, HOLES, garbage), HOLES, gamma=0.9, lam=0.8)
        chex.assert_trees_all_equal(dirty, gae(rewards, values, HOLES, gamma=0.9, lam=0.8))


def test_integer_rewards_are_refused(unchecked):
    values, mask = jnp.zeros((2, 3)), jnp.ones((2, 3), jnp.bool_)
    with pytest.raises(TypeError, match="rewards is int32"):
        gae(jnp.ones((2, 3), jnp.int32), values, mask)
    with pytest.raises(TypeError, match="bootstrap is int32"):
        gae(values, values, mask, bootstrap=jnp.ones(2, jnp.int32))


def test_the_weights_of_a_length_adaptive_lambda_sum_to_its_part_of_the_length():
    mask = np.ones((1, 200), bool)
    [lam] = length_adaptive_lam(mask, 0.05)
    np.testing.assert_allclose(1 / (1 - lam), 0.05 * 200, rtol=1e-5)
    assert length_adaptive_lam(mask[:, :3], 0.05) == 0, "a short response has the one-step error"
