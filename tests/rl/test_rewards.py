import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.rl import ScoreStats, eos_penalty, length_penalty, scale_scores, token_rewards

from . import references
from .examples import GARBAGE, MASK, normal, rollout, soiled


def test_rewards_of_a_hand_worked_batch():
    # Row 0 ends in EOS at its second token, row 1 is cut off without one.
    mask = jnp.array([[True, True, False], [True, True, True]])
    kl = jnp.array([[1.0, -2.0, 7.0], [0.0, 4.0, 0.5]])
    rewards = token_rewards(jnp.array([0.7, -0.3]), kl, mask, kl_coef=0.1)
    np.testing.assert_allclose(rewards, [[-0.1, 0.2 + 0.7, 0.0], [0.0, -0.4, -0.05 - 0.3]], atol=1e-7)


@pytest.mark.parametrize("kl_coef", [0.0, 0.2, jnp.float32(0.2)])
def test_rewards_equal_the_reference(kl_coef):
    (kl,), scores = rollout(0, 1), normal(1, 4)
    expected = references.token_rewards(scores, kl, MASK, float(kl_coef))
    np.testing.assert_allclose(token_rewards(scores, kl, MASK, kl_coef=kl_coef), expected, atol=1e-6)


def test_padding_never_changes_the_rewards():
    (kl,), scores = rollout(2, 1), normal(3, 4)
    clean = token_rewards(scores, kl, MASK, kl_coef=0.1)
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_equal(clean, jnp.where(MASK, clean, 0.0))
    for garbage in GARBAGE:
        dirty = token_rewards(scores, soiled(kl, MASK, garbage), MASK, kl_coef=0.1)
        chex.assert_trees_all_equal(clean, dirty)


def test_a_fractional_score_arrives_whole():
    mask = jnp.ones((1, 2), jnp.bool_)
    assert token_rewards(jnp.array([0.7]), jnp.zeros((1, 2)), mask, kl_coef=0.0).sum() == jnp.float32(0.7)


def test_integers_never_receive_rewards(unchecked):
    mask = jnp.ones((2, 3), jnp.bool_)
    with pytest.raises(TypeError, match="scores is int32"):
        token_rewards(jnp.array([1, 2]), jnp.zeros((2, 3)), mask, kl_coef=0.1)
    with pytest.raises(TypeError, match="kl is int32"):
        token_rewards(jnp.zeros(2), jnp.zeros((2, 3), jnp.int32), mask, kl_coef=0.1)
    for function in (
        lambda scores: scale_scores(scores, ScoreStats.create()),
        lambda scores: eos_penalty(scores, jnp.array([True, False]), 1.0),
        lambda scores: length_penalty(scores, jnp.array([3, 4]), 0.1, 3),
    ):
        with pytest.raises(TypeError, match="scores is int32"):
            function(jnp.array([1, 2]))


def test_scaling_a_hand_worked_batch():
    # Mean 2, population std 1 (1 and 3); the reference has mean 1 and std 2.
    stats, scores = ScoreStats.create(ref_mean=1.0, ref_std=2.0), jnp.array([1.0, 3.0])
    expected = {"none": [1, 3], "reference": [0, 1], "running_std": [1, 3], "running_mean_std": [-1, 1]}
    for method, scaled in expected.items():
        np.testing.assert_allclose(scale_scores(scores, stats, method=method)[0], scaled, atol=1e-6)
    np.testing.assert_allclose(scale_scores(scores, stats, clip=1.5)[0], [1.0, 1.5])


@pytest.mark.parametrize("method", ["none", "reference", "running_std", "running_mean_std"])
def test_running_moments_are_those_of_all_scores_so_far(method):
    # Far from zero, where a sum of squares would lose the variance to cancellation.
    batches = [normal(4, 3) + 1000.0, normal(5, 8) * 2 + 1000.0, normal(6, 1) + 1000.0]
    stats = ScoreStats.create()
    for i, batch in enumerate(batches):
        scaled, stats = scale_scores(batch, stats, method=method)
        seen = np.concatenate(batches[: i + 1]).astype(np.float64)
        assert stats.count == len(seen)
        np.testing.assert_allclose(stats.mean, seen.mean(), rtol=1e-6)
        np.testing.assert_allclose(stats.std, seen.std(), rtol=1e-3)
    shift = seen.mean() if method == "running_mean_std" else 0.0
    std = seen.std() if method.startswith("running") else 1.0
    np.testing.assert_allclose(scaled, (batches[-1] - shift) / std, rtol=1e-3)


def test_scores_without_spread_are_not_blown_up():
    scores = jnp.full((4,), 0.3)
    assert (scale_scores(scores, ScoreStats.create(), method="running_std")[0] == scores).all()
    scaled, _ = scale_scores(scores, ScoreStats.create(), method="running_mean_std")
    np.testing.assert_allclose(scaled, np.zeros(4), atol=1e-6)
    assert (scale_scores(scores, ScoreStats.create(ref_std=0.0), method="reference")[0] == scores).all()


def test_stats_are_state_that_can_be_donated():
    step = jax.jit(lambda stats, scores: scale_scores(scores, stats, method="running_std"), donate_argnums=0)
    _, stats = step(ScoreStats.create(), jnp.array([1.0, 3.0]))
    chex.assert_trees_all_close(stats.mean, jnp.float32(2.0))


def test_unfinished_responses_pay_the_eos_penalty():
    scores = eos_penalty(jnp.array([0.5, 0.5]), jnp.array([True, False]), 1.0)
    chex.assert_trees_all_close(scores, jnp.array([0.5, -0.5]))


def test_only_tokens_beyond_the_target_are_penalized():
    scores = length_penalty(jnp.array([1.0, 1.0, 1.0]), jnp.array([5, 10, 14]), coef=0.25, target=10)
    chex.assert_trees_all_close(scores, jnp.array([1.0, 1.0, 0.0]))


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="'batch' does not scale scores"):
        scale_scores(jnp.zeros(2), ScoreStats.create(), method="batch")
