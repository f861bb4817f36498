"""Scores of several reward models as one, against the float64 reference, under random numbers."""

import jax
import numpy as np
import pytest

from icegrt_jax import rl
from tests.rl import masks, references

given = pytest.importorskip("hypothesis").given
MEMBERS = 3
RULES = [("mean", 0.0), ("worst", 0.0), ("uncertainty", 0.7)]
together = jax.jit(rl.ensemble_scores, static_argnames=("method", "coef"))
on_one_scale, ensemble_std = jax.jit(rl.on_one_scale), jax.jit(rl.ensemble_std)


@masks.RANDOM
@given(masks.arrays(masks.ROWS, MEMBERS), masks.arrays(MEMBERS), masks.arrays(MEMBERS))
def test_scores_together_equal_the_reference(scores, mean, std):
    std = np.where(np.abs(std) < 0.1, 0.0, np.abs(std))  # no spread counts as 1
    scaled = on_one_scale(scores, mean, std)
    for method, coef in RULES:
        verdicts, spreads = references.ensemble_scores(scores, mean, std, method, coef)
        got = together(scaled, method=method, coef=coef)
        np.testing.assert_allclose(got, verdicts, rtol=2e-5, atol=2e-4, err_msg=method)
        np.testing.assert_allclose(ensemble_std(scaled), spreads, rtol=2e-5, atol=2e-4)


@masks.RANDOM
@given(masks.arrays(masks.ROWS, MEMBERS), masks.numbers)
def test_a_member_that_says_the_same_in_another_unit_changes_nothing(scores, constant):
    """Scores are known up to a constant, and members differ in how far they spread the same answers."""
    mean, std = scores.mean(axis=0), scores.std(axis=0)
    if std.min() < 0.1:
        return
    moved = scores * np.float32([3.0, 1.0, 1.0]) + np.float32([constant, 0.0, 0.0])
    theirs = on_one_scale(moved, moved.mean(axis=0), moved.std(axis=0))
    for method, coef in RULES:
        ours = together(on_one_scale(scores, mean, std), method=method, coef=coef)
        np.testing.assert_allclose(together(theirs, method=method, coef=coef), ours, atol=2e-3, err_msg=method)


def test_members_that_agree_are_one_and_no_rule_is_made_up():
    scores = np.float32([[0.5, 0.5, 0.5], [-1.0, -1.0, -1.0]])
    for method, coef in RULES:
        np.testing.assert_allclose(together(scores, method=method, coef=coef), [0.5, -1.0], atol=1e-6)
    with pytest.raises(ValueError, match='use "mean", "worst" or "uncertainty"'):
        rl.ensemble_scores(scores, method="median")
