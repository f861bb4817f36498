"""Advantages with a λ of each response's own, and without a critic as what is still to come."""

import jax
import numpy as np
import pytest

from icegrt_jax import rl

from . import masks, references

given = pytest.importorskip("hypothesis").given
gae = jax.jit(rl.gae, static_argnames="gamma")


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


def test_the_weights_of_a_length_adaptive_lambda_sum_to_its_part_of_the_length():
    mask = np.ones((1, 200), bool)
    [lam] = rl.length_adaptive_lam(mask, 0.05)
    np.testing.assert_allclose(1 / (1 - lam), 0.05 * 200, rtol=1e-5)
    assert rl.length_adaptive_lam(mask[:, :3], 0.05) == 0, "a short response has the one-step error"
