import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import rl
from icegrt_jax.rl import count_ranked, pair_probabilities, ranked_pairs, ranking_accuracy, same_responses

from . import references
from .examples import GARBAGE, normal, soiled

# Rows: a full ranking, ties, two responses only, all tied, a single response.
RANKS = np.array([[1, 2, 3, 4], [2, 1, 1, 3], [2, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], np.float32)
VALID = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], bool)

# Compiled, as they are used: one compilation for each shape instead of one for each operation.
ranking_loss = jax.jit(rl.ranking_loss)
gradients = jax.jit(jax.value_and_grad(rl.ranking_loss, has_aux=True))
calibration = jax.jit(rl.calibration, static_argnames="bins")


def softplus(x: float) -> float:
    return np.log1p(np.exp(x))


def test_loss_of_a_hand_worked_batch():
    # Prompt 0: scores 2, 0, 1 ranked 1, 2, 3: margins 2, 1, -1. Prompt 1: scores 0, 3 ranked 2, 1: margin 3.
    scores = jnp.array([[2.0, 0.0, 1.0], [0.0, 3.0, 9.0]])
    ranks = jnp.array([[1.0, 2.0, 3.0], [2.0, 1.0, 0.0]])
    valid = jnp.array([[True, True, True], [True, True, False]])
    loss, metrics = ranking_loss(scores, ranks, valid)
    np.testing.assert_allclose(loss, ((softplus(-2) + softplus(-1) + softplus(1)) / 3 + softplus(-3)) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], (2 / 3 + 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["margin"], (2 / 3 + 3) / 2, rtol=1e-6)
    assert count_ranked(ranks, valid) == 2


def test_loss_equals_the_reference():
    scores = normal(0, *RANKS.shape) * 3
    loss, metrics = ranking_loss(scores, RANKS, VALID)
    expected = references.ranking_loss(scores, RANKS, VALID)
    np.testing.assert_allclose([loss, metrics["accuracy"], metrics["margin"]], expected, rtol=1e-5)
    np.testing.assert_allclose(ranking_accuracy(scores, RANKS, VALID), expected[1], rtol=1e-6)


def test_two_responses_give_the_bradley_terry_likelihood():
    chosen, rejected = normal(1, 2, 6)
    loss, _ = ranking_loss(
        jnp.stack([chosen, rejected], axis=1), jnp.tile(jnp.array([1.0, 2.0]), (6, 1)), jnp.ones((6, 2), jnp.bool_)
    )
    bradley_terry = np.exp(chosen) / (np.exp(chosen) + np.exp(rejected))
    np.testing.assert_allclose(loss, -np.log(bradley_terry).mean(), rtol=1e-5)


def test_tied_responses_make_no_pair():
    pairs = ranked_pairs(jnp.array([[1.0, 1.0, 2.0]]), jnp.ones((1, 3), jnp.bool_))
    chex.assert_trees_all_equal(jnp.argwhere(pairs[0]), jnp.array([[0, 2], [1, 2]]))


def test_a_prompt_without_a_pair_contributes_nothing():
    scores = normal(2, *RANKS.shape)
    loss, gradient = gradients(jnp.asarray(scores), RANKS, VALID)
    alone, alone_gradient = gradients(jnp.asarray(scores[:3]), RANKS[:3], VALID[:3])
    chex.assert_trees_all_close(loss, alone, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.concatenate([alone_gradient, np.zeros((2, 4))]), rtol=1e-6)
    assert count_ranked(RANKS, VALID) == 3
    nothing, metrics = ranking_loss(scores[3:], RANKS[3:], VALID[3:])
    assert nothing == metrics["accuracy"] == metrics["margin"] == 0.0


def test_padding_changes_neither_loss_nor_gradient_nor_metric():
    scores = normal(3, *RANKS.shape)
    clean = gradients(jnp.asarray(scores), RANKS, VALID)
    chex.assert_tree_all_finite(clean)
    for garbage in GARBAGE:
        dirty = soiled(scores, VALID, garbage), soiled(RANKS, VALID, garbage), VALID
        chex.assert_trees_all_equal(clean, gradients(*dirty))
        chex.assert_trees_all_equal(calibration(scores, RANKS, VALID), calibration(*dirty))


def test_scores_far_apart_keep_loss_and_gradient_finite():
    scores = jnp.array([[-1e4, 1e4]])
    (loss, _), gradient = gradients(scores, jnp.array([[1.0, 2.0]]), jnp.ones((1, 2), jnp.bool_))
    assert loss == 2e4
    chex.assert_trees_all_close(gradient, jnp.array([[-1.0, 1.0]]))


def test_responses_that_read_the_same_make_no_pair_of_loss_accuracy_or_calibration():
    # Responses 0 and 2 are the same tokens, whatever fills their padding; so are 0 and 1 of the second prompt.
    tokens = jnp.array([[[5, 6, 0], [5, 7, 0], [5, 6, 9]], [[5, 8, 8], [5, 8, 8], [5, 8, 8]]])
    mask = jnp.array([[[1, 1, 0]] * 3, [[1, 1, 1], [1, 1, 1], [1, 1, 0]]], jnp.bool_)
    ranks, valid = jnp.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), jnp.array([[True] * 3, [True, True, False]])
    same = same_responses(tokens, mask)
    chex.assert_trees_all_equal(jnp.argwhere(ranked_pairs(ranks, valid, same)), jnp.array([[0, 0, 1], [0, 1, 2]]))
    assert count_ranked(ranks, valid, same) == 1
    scores = jnp.array([[2.0, 1.0, 2.0], [0.5, 0.5, 0.0]])
    loss, metrics = ranking_loss(scores, ranks, valid, same=same)
    np.testing.assert_allclose(loss, (softplus(-1) + softplus(1)) / 2, rtol=1e-6)
    assert metrics["accuracy"] == ranking_accuracy(scores, ranks, valid, same=same) == 0.5
    assert calibration(scores, ranks, valid, same=same).count.sum() == 2


def test_shares_of_devices_add_up_to_the_whole():
    scores = jnp.asarray(normal(4, *RANKS.shape))
    whole = gradients(scores, RANKS, VALID)

    def on_device(scores, ranks, valid):
        total = jax.lax.psum(count_ranked(ranks, valid), "device")
        share, gradient = gradients(scores, ranks, valid, total=total)
        accuracy = jax.lax.psum(ranking_accuracy(scores, ranks, valid, total=total), "device")
        return jax.lax.psum(share, "device"), accuracy, gradient

    split, accuracy, gradient = jax.jit(jax.vmap(on_device, axis_name="device", out_axes=(None, None, 0)))(
        scores[:, None], RANKS[:, None], VALID[:, None]
    )
    chex.assert_trees_all_close(whole, (split, gradient[:, 0]), rtol=1e-5)
    chex.assert_trees_all_close(accuracy, whole[0][1]["accuracy"], rtol=1e-6)


def test_pair_probabilities_of_a_hand_worked_prompt():
    # Scores log 3 and 0: 3/4 against 1/4; nothing is said about the response that is not there.
    probabilities = pair_probabilities(jnp.array([[np.log(3.0), 0.0, np.nan]]), jnp.array([[True, True, False]]))
    np.testing.assert_allclose(probabilities, [[[0.5, 0.75, 0], [0.25, 0.5, 0], [0, 0, 0]]], atol=1e-6)


def test_calibration_of_a_hand_worked_batch():
    # Four pairs at confidence 3/4, three of them right; one pair at 19/20, wrong.
    margins = [np.log(3.0)] * 3 + [-np.log(3.0), -np.log(19.0)]
    scores = jnp.array([[m, 0.0] for m in margins])
    ranks, valid = jnp.tile(jnp.array([1.0, 2.0]), (5, 1)), jnp.ones((5, 2), jnp.bool_)
    result = calibration(scores, ranks, valid, bins=5)  # edges 0.5 0.6 0.7 0.8 0.9 1
    np.testing.assert_allclose(result.confidence[2], 0.75, rtol=1e-6)
    np.testing.assert_allclose(result.accuracy[2], 0.75, rtol=1e-6)
    np.testing.assert_allclose([result.confidence[4], result.accuracy[4]], [0.95, 0.0], rtol=1e-6)
    chex.assert_trees_all_equal(result.count, jnp.array([0.0, 0.0, 4.0, 0.0, 1.0]))
    np.testing.assert_allclose(result.ece, 0.95 / 5, rtol=1e-6)


def test_calibration_equals_the_reference():
    scores = normal(5, 40, 4) * 2
    ranks = np.random.default_rng(6).integers(1, 4, (40, 4)).astype(np.float32)
    valid = np.random.default_rng(7).random((40, 4)) < 0.8
    result = calibration(scores, ranks, valid, bins=10)
    ece, table = references.calibration(scores, ranks, valid, 10)
    np.testing.assert_allclose(result.ece, ece, rtol=1e-4)
    np.testing.assert_allclose(np.stack([result.confidence, result.accuracy, result.count], axis=1), table, rtol=1e-4)


def test_a_model_that_knows_the_odds_is_calibrated():
    scores = jnp.asarray(normal(8, 20_000, 2))
    first_wins = jax.random.bernoulli(jax.random.key(0), jax.nn.sigmoid(scores[:, 0] - scores[:, 1]))
    ranks = jnp.stack([jnp.where(first_wins, 1.0, 2.0), jnp.where(first_wins, 2.0, 1.0)], axis=1)
    valid = jnp.ones((20_000, 2), jnp.bool_)
    assert calibration(scores, ranks, valid).ece < 0.02
    assert calibration(4.0 * scores, ranks, valid).ece > 0.1  # the same order, far too sure


def test_mistakes_are_named(unchecked):
    with pytest.raises(TypeError, match="scores is int32"):
        ranking_loss(jnp.ones((1, 2), jnp.int32), jnp.ones((1, 2)), jnp.ones((1, 2), jnp.bool_))
    with pytest.raises(TypeError, match="valid is float32"):
        ranking_loss(jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.ones((1, 2)))
