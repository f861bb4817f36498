"""The maths of the estimators against their float64 references, under random masks and numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import rl
from icegrt_jax.rl.aggregation import METHODS

from . import masks, references
from .test_aggregation import aggregate, alone, gspo, loss_count, loss_weights, policy_loss, sequence_means
from .test_groups import flat_groups, group_advantages, group_std, leave_one_out

given = pytest.importorskip("hypothesis").given
GROUP = masks.GROUP
gae = jax.jit(rl.gae, static_argnames="gamma")


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
    np.testing.assert_allclose(sequence_means(x, mask, alone(mask), masks.ROWS), expected, atol=1e-5)
    pairs = lambda a: a.reshape(masks.ROWS // 2, 2 * masks.LENGTH)  # two sequences in a row
    packed = sequence_means(pairs(x), pairs(mask), pairs(alone(mask)), masks.ROWS)
    np.testing.assert_allclose(packed, pairs(expected), atol=1e-5)


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


@masks.RANDOM
@given(*[masks.arrays(masks.ROWS, masks.LENGTH)] * 2, masks.lengths_mask())
def test_a_lambda_for_each_response_equals_the_reference(rewards, values, mask):
    for alpha in (0.3, 0.05):
        expected = references.length_adaptive_lam(mask, alpha)
        lam = rl.length_adaptive_lam(mask, alpha)
        np.testing.assert_allclose(lam, expected, rtol=1e-5)
        rows = [[x[i : i + 1] for x in (rewards, values, mask)] for i in range(masks.ROWS)]
        by_row = [references.gae(*row, 0.9, own)[0] for row, own in zip(rows, expected, strict=True)]
        advantages, _ = gae(rewards, values, mask, gamma=0.9, lam=lam)
        np.testing.assert_allclose(advantages, np.concatenate(by_row), atol=1e-4)


@masks.RANDOM
@given(masks.arrays(masks.ROWS, masks.LENGTH), masks.lengths_mask())
def test_without_a_critic_an_advantage_is_what_is_still_to_come(rewards, mask):
    """REINFORCE++, arXiv 2501.03262: the score and the KL penalty of all later tokens."""
    to_come, _ = gae(rewards, np.zeros_like(rewards), mask, gamma=0.9, lam=np.ones(masks.ROWS, np.float32))
    for b, t in np.argwhere(mask):
        expected = sum(0.9 ** (k - t) * rewards[b, k] for k in range(t, mask[b].sum()))
        np.testing.assert_allclose(to_come[b, t], expected, atol=1e-4)
