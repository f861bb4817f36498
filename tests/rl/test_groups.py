"""Advantages against the other answers to the same prompt: RLOO, GRPO, Dr. GRPO, GSPO."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import rl

from . import masks, references

given = pytest.importorskip("hypothesis").given
GROUP = masks.GROUP

leave_one_out = jax.jit(rl.leave_one_out, static_argnums=1)
group_advantages = jax.jit(rl.group_advantages, static_argnums=1, static_argnames="scale")
group_std = jax.jit(rl.group_std, static_argnums=1)
flat_groups = jax.jit(rl.flat_groups, static_argnums=1)


def test_hand_worked_groups():
    returns = jnp.array([1.0, 2.0, 6.0, 0.7, 0.7, 0.7])
    np.testing.assert_allclose(leave_one_out(returns, 3), [1 - 4, 2 - 3.5, 6 - 1.5, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(group_advantages(returns, 3, scale=False), [-2, -1, 3, 0, 0, 0], atol=1e-6)
    std = np.sqrt((4 + 1 + 9) / 3)
    np.testing.assert_allclose(
        group_advantages(returns, 3, scale=True), [-2 / std, -1 / std, 3 / std, 0, 0, 0], rtol=1e-6
    )
    np.testing.assert_allclose(group_std(returns, 3), std / 2, rtol=1e-6)
    assert flat_groups(returns, 3).tolist() == [False] * 3 + [True] * 3


@masks.RANDOM
@given(masks.arrays(masks.ROWS))
def test_advantages_of_groups_equal_the_references(returns):
    np.testing.assert_allclose(leave_one_out(returns, GROUP), references.leave_one_out(returns, GROUP), atol=1e-5)
    for scale in (False, True):
        expected = references.group_advantages(returns, GROUP, scale)
        np.testing.assert_allclose(group_advantages(returns, GROUP, scale=scale), expected, atol=2e-4, rtol=1e-4)
    np.testing.assert_allclose(group_std(returns, GROUP), references.group_std(returns, GROUP), atol=1e-5)
    spreads = [np.ptp(returns[i : i + GROUP]) > 1e-5 for i in range(0, len(returns), GROUP)]
    assert flat_groups(returns, GROUP).tolist() == [not wide for wide in spreads for _ in range(GROUP)]


@masks.RANDOM
@given(masks.arrays(masks.ROWS), masks.numbers)
def test_a_prompt_that_is_better_by_a_constant_changes_no_advantage(returns, constant):
    moved = returns + np.repeat(np.float32([constant, 0.0]), GROUP)
    np.testing.assert_allclose(leave_one_out(moved, GROUP), leave_one_out(returns, GROUP), atol=1e-5)
    ours, theirs = (group_advantages(x, GROUP, scale=False) for x in (moved, returns))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_rounding_is_not_taken_for_a_difference():
    returns = jnp.full(4, 0.7) + jnp.array([0.0, 1e-7, -1e-7, 0.0])
    assert group_advantages(returns, 4, scale=True).tolist() == [0.0] * 4
    assert flat_groups(returns, 4).all()


@pytest.mark.parametrize("group, message", [(1, "use 2 or more"), (4, "6 answers do not divide into groups of 4")])
def test_groups_that_are_none_are_refused(group, message):
    with pytest.raises(ValueError, match=message):
        leave_one_out(jnp.zeros(6), group)
