"""How token losses become one number, the ratio of a whole answer, and GSPO's loss from its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import rl

from .examples import GARBAGE, MASK, rollout, soiled

loss_weights = jax.jit(rl.loss_weights, static_argnums=1)
loss_count = jax.jit(rl.loss_count, static_argnums=1)
aggregate = jax.jit(rl.aggregate)
sequence_means = jax.jit(rl.sequence_means, static_argnums=3)
policy_loss = jax.jit(functools.partial(rl.ppo_policy_loss, cliprange=0.2, cliprange_high=0.3))


def test_a_hand_worked_batch_by_each_method():
    mask = jnp.array([[True, True, False, False], [True, False, False, False]])
    losses = jnp.array([[1.0, 3.0, 9.0, 9.0], [8.0, 9.0, 9.0, 9.0]])
    for method, expected in (("token", 12 / 3), ("sequence", (2 + 8) / 2), ("constant", (4 + 8) / 4 / 2)):
        weights = loss_weights(mask, method)
        np.testing.assert_allclose(aggregate(losses, mask, None, weights), expected, rtol=1e-6)
        kept = loss_weights(mask, method, keep=jnp.array([False, True]))
        np.testing.assert_allclose(aggregate(losses, mask, None, kept), 8.0 / (4 if method == "constant" else 1))


def alone(mask):
    """Segment ids i32[R, W] of sequences with a row each."""
    return np.broadcast_to(np.arange(1, len(mask) + 1, dtype=np.int32)[:, None], mask.shape)


def gspo(logprobs, old_logprobs, advantages, mask):
    """As the update computes it."""
    log_ratio = jnp.where(mask, jax.lax.stop_gradient(logprobs) - old_logprobs, 0.0)
    means = sequence_means(log_ratio, mask, alone(mask), len(mask))
    return policy_loss(
        logprobs, old_logprobs, advantages, mask,
        weights=loss_weights(mask, "sequence"), sequence_log_ratio=means,
    )  # fmt: skip


def test_garbage_in_the_padding_changes_neither_gspo_s_loss_nor_its_gradient():
    arrays = rollout(4, 3)
    gradients = jax.value_and_grad(lambda arrays: gspo(*arrays, MASK)[0])
    clean = gradients(list(arrays))
    for garbage in GARBAGE:
        dirty = gradients([soiled(x, MASK, garbage * (-1) ** i) for i, x in enumerate(arrays)])
        jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method='mean' does not add up losses; use \"token\""):
        loss_weights(MASK, "mean")
