"""Advantages against the other answers to the same prompt: RLOO, GRPO, Dr. GRPO, GSPO."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import rl

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


def test_rounding_is_not_taken_for_a_difference():
    returns = jnp.full(4, 0.7) + jnp.array([0.0, 1e-7, -1e-7, 0.0])
    assert group_advantages(returns, 4, scale=True).tolist() == [0.0] * 4
    assert flat_groups(returns, 4).all()


@pytest.mark.parametrize("group, message", [(1, "use 2 or more"), (4, "6 answers do not divide into groups of 4")])
def test_groups_that_are_none_are_refused(group, message):
    with pytest.raises(ValueError, match=message):
        leave_one_out(jnp.zeros(6), group)
