"""How often scores order pairs as a judge does."""

import numpy as np
import pytest

from icegrt_jax.evaluation.pairs import pair_accuracy


def test_pairs_of_one_prompt_are_counted_and_the_judges_ties_left_out():
    gold = [0.1, 0.5, 0.9, 0.5, 0.5, 0.3]
    prompts = [0, 0, 0, 1, 1, 1]
    scores = [1.0, 3.0, 2.0, 9.0, -9.0, 0.0]
    accuracy, low, high, pairs = pair_accuracy(scores, gold, prompts)
    assert pairs == 5, "three of the first prompt, two of the second"
    assert accuracy == pytest.approx((2 / 3 + 1 / 2) / 2) and low < accuracy < high


def test_equal_scores_are_not_right():
    assert pair_accuracy([1, 1], [0.2, 0.8], [0, 0])[0] == 0.0


def test_without_a_pair_there_is_nothing():
    assert pair_accuracy([1, 2, 3], [0.5, 0.5, 0.9], [0, 0, 1]) is None


def test_the_interval_covers_a_coin_as_often_as_it_says_and_is_over_prompts():
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(40), 4)
    covered, widths = [], []
    for _ in range(200):
        # One sign for all pairs of a prompt: the pairs say no more than the prompts do.
        gold = np.tile([0.1, 0.2, 0.3, 0.4], 40)
        scores = gold * np.repeat(rng.choice([-1, 1], 40), 4)
        accuracy, low, high, pairs = pair_accuracy(scores, gold, prompts)
        covered.append(low <= 0.5 <= high)
        widths.append(high - low)
    assert pairs == 240 and 0.9 < np.mean(covered) <= 1
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.1)
