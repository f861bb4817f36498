"""How token losses become one number, the ratio of a whole answer, and GSPO's loss from its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import rl
from icegrt_jax.rl.aggregation import METHODS

from . import masks, references
from .examples import GARBAGE, MASK, rollout, soiled

given = pytest.importorskip("hypothesis").given

loss_weights = jax.jit(rl.loss_weights, static_argnums=1)
loss_count = jax.jit(rl.loss_count, static_argnums=1)
aggregate = jax.jit(rl.aggregate)
sequence_means = jax.jit(rl.sequence_means, static_argnums=3)
policy_loss = jax.jit(functools.partial(rl.ppo_policy_loss, cliprange=0.2, cliprange_high=0.3))
IDS = np.broadcast_to(np.arange(1, masks.ROWS + 1, dtype=np.int32)[:, None], (masks.ROWS, masks.LENGTH))


def test_a_hand_worked_batch_by_each_method():
    mask = jnp.array([[True, True, False, False], [True, False, False, False]])
    losses = jnp.array([[1.0, 3.0, 9.0, 9.0], [8.0, 9.0, 9.0, 9.0]])
    for method, expected in (("token", 12 / 3), ("sequence", (2 + 8) / 2), ("constant", (4 + 8) / 4 / 2)):
        weights = loss_weights(mask, method)
        np.testing.assert_allclose(aggregate(losses, mask, None, weights), expected, rtol=1e-6)
        kept = loss_weights(mask, method, keep=jnp.array([False, True]))
        np.testing.assert_allclose(aggregate(losses, mask, None, kept), 8.0 / (4 if method == "constant" else 1))


@masks.RANDOM
@given(masks.arrays(masks.ROWS, masks.LENGTH), masks.any_mask(), masks.flags())
def test_losses_add_up_as_in_the_reference(losses, mask, keep):
    for method in METHODS:
        for kept in (None, keep):
            got = aggregate(losses, mask, None, loss_weights(mask, method, keep=kept))
            np.testing.assert_allclose(
                got, references.aggregated(losses, mask, method, kept), atol=1e-5, err_msg=method
            )
    np.testing.assert_allclose(aggregate(losses, mask), references.mean(losses, mask), atol=1e-5)


@masks.RANDOM
@given(masks.arrays(masks.ROWS, masks.LENGTH), masks.any_mask(), masks.flags())
def test_shares_of_two_devices_add_up_to_the_whole(losses, mask, keep):
    parts = slice(0, masks.ROWS // 2), slice(masks.ROWS // 2, None)
    for method in METHODS:
        total = sum(loss_count(mask[part], method, keep=keep[part]) for part in parts)
        shares = [
            aggregate(losses[part], mask[part], None, loss_weights(mask[part], method, keep=keep[part], total=total))
            for part in parts
        ]
        whole = references.aggregated(losses, mask, method, keep)
        np.testing.assert_allclose(sum(shares), whole, atol=1e-5, err_msg=method)


@masks.RANDOM
@given(masks.arrays(masks.ROWS, masks.LENGTH), masks.any_mask())
def test_a_mean_over_a_sequence_is_the_same_wherever_it_lies_in_packed_rows(x, mask):
    expected = [references.mean(row, m) if m.any() else 0.0 for row, m in zip(x, mask)]
    expected = np.where(mask, np.array(expected)[:, None], 0.0)
    np.testing.assert_allclose(sequence_means(x, mask, IDS, masks.ROWS), expected, atol=1e-5)
    pairs = lambda a: a.reshape(masks.ROWS // 2, 2 * masks.LENGTH)  # two sequences in a row
    packed = sequence_means(pairs(x), pairs(mask), pairs(IDS), masks.ROWS)
    np.testing.assert_allclose(packed, pairs(expected), atol=1e-5)


def gspo(logprobs, old_logprobs, advantages, mask):
    """As the update computes it."""
    ids = IDS[: len(mask), : mask.shape[1]]
    means = sequence_means(jnp.where(mask, jax.lax.stop_gradient(logprobs) - old_logprobs, 0.0), mask, ids, masks.ROWS)
    return policy_loss(
        logprobs, old_logprobs, advantages, mask,
        weights=loss_weights(mask, "sequence"), sequence_log_ratio=means,
    )  # fmt: skip


@masks.RANDOM
@given(*[masks.arrays(masks.ROWS, masks.LENGTH)] * 2, masks.arrays(masks.ROWS), masks.lengths_mask())
def test_gspo_is_the_clipped_objective_of_whole_answers(logprobs, old_logprobs, advantages, mask):
    logprobs, old_logprobs = logprobs / 4, old_logprobs / 4
    advantages = np.broadcast_to(advantages[:, None], mask.shape)
    loss, metrics = gspo(logprobs, old_logprobs, advantages, mask)
    ratios = references.sequence_ratios(logprobs, old_logprobs, mask)
    losses = references.token_losses(ratios, advantages, 0.2, 0.3)
    np.testing.assert_allclose(loss, references.aggregated(losses, mask, "sequence"), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(metrics["ratio"], references.mean(ratios, mask), atol=1e-4, rtol=1e-4)


@masks.RANDOM
@given(*[masks.arrays(masks.ROWS, masks.LENGTH)] * 2, masks.arrays(masks.ROWS), masks.lengths_mask())
def test_the_gradient_of_gspo_is_that_of_its_definition(logprobs, old_logprobs, advantages, mask):
    """arXiv 2507.18071, eq. 10: by the answer's ratio and advantage, shared out equally over its tokens."""
    logprobs, old_logprobs = logprobs / 4, old_logprobs / 4
    spread = np.broadcast_to(advantages[:, None], mask.shape)
    gradient = jax.grad(lambda x: gspo(x, old_logprobs, spread, mask)[0])(jnp.asarray(logprobs))
    ratios = references.sequence_ratios(logprobs, old_logprobs, mask)
    answers, expected = max(int(mask.any(1).sum()), 1), np.zeros(mask.shape)
    for b, t in np.argwhere(mask):
        ratio, a = ratios[b, t], float(advantages[b])
        if min(abs(ratio - 0.8), abs(ratio - 1.3)) < 1e-3:
            return  # at the edge either is right
        free = ratio * a <= max(0.8, min(1.3, ratio)) * a
        expected[b, t] = -ratio * a / mask[b].sum() / answers if free else 0.0
    np.testing.assert_allclose(gradient, expected, atol=1e-4)


@masks.RANDOM
@given(*[masks.arrays(masks.ROWS, masks.LENGTH)] * 3, masks.any_mask(), masks.flags())
def test_the_policy_loss_by_each_method_equals_the_reference(logprobs, old_logprobs, advantages, mask, keep):
    logprobs, old_logprobs = logprobs / 4, old_logprobs / 4
    ratios = np.exp(np.float64(logprobs) - np.float64(old_logprobs))
    losses = references.token_losses(ratios, advantages, 0.2, 0.3)
    for method in METHODS:
        weights = loss_weights(mask, method, keep=keep)
        loss, _ = policy_loss(logprobs, old_logprobs, advantages, mask, weights=weights)
        np.testing.assert_allclose(loss, references.aggregated(losses, mask, method, keep), atol=1e-4, rtol=1e-4)


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
