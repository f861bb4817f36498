"""Differences paired by prompt: the bootstrap against all resamples and against SciPy, and what pairing is for."""

import itertools

import numpy as np
import pytest
import scipy.stats

from icegrt_jax.evaluation.paired import bootstrap, column, difference, differences

SE = 0.02  # of a bound in standard errors of the mean, by 10,000 draws: about 0.027


def scale(*parts):
    return np.sqrt(sum(part.var() / len(part) for part in parts)) / len(parts)


def test_few_prompts_have_the_quantiles_of_all_their_resamples():
    values = np.array([0.0, 0.1, 0.5, 1.0, -0.7])
    means = np.mean(list(itertools.product(values, repeat=5)), axis=1)  # all 3,125, alike likely
    np.testing.assert_allclose(bootstrap([values]), np.quantile(means, [0.025, 0.975]), atol=5 * SE * scale(values))


@pytest.mark.parametrize("sizes", [(60,), (40, 7, 21)])
def test_the_bounds_are_those_of_scipy(sizes):
    rng = np.random.default_rng(1)
    parts = [rng.normal(i, 1 + i, size) for i, size in enumerate(sizes)]
    mean = lambda *drawn, axis: np.mean([part.mean(axis=axis) for part in drawn], axis=0)
    found = scipy.stats.bootstrap(parts, mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2))
    np.testing.assert_allclose(bootstrap(parts), found.confidence_interval, atol=5 * SE * scale(*parts))
    assert bootstrap(parts) == bootstrap(parts), "the same draws"


def test_the_interval_holds_the_true_difference_in_about_95_of_100_draws():
    rng = np.random.default_rng(0)
    apart = rng.normal(0.1, 1.0, (300, 80))
    covered = np.mean([low <= 0.1 <= high for low, high in (bootstrap([row]) for row in apart)])
    assert 0.90 <= covered <= 0.98


def test_prompts_that_are_hard_for_both_do_not_widen_it():
    rng = np.random.default_rng(0)
    hard, noise = rng.uniform(0, 1, 400), rng.normal(0, 0.01, 400)
    mean, low, high, prompts = difference(hard + 0.05 + noise, hard)
    assert prompts == 400 and mean == pytest.approx(0.05, abs=2e-3) and 0.04 < low < mean < high < 0.06


def test_tasks_weigh_the_same_and_prompts_without_the_number_are_left_out():
    ours = column([{"gold": 1.0}, {"gold": 1.0}, {"gold": 1.0}, {"gold": 0.5}, {}, {"gold": 1.0}], "gold")
    theirs = np.array([1.0, 0.0, 0.0, 1.0, 0.0, np.nan])
    mean, low, high, prompts = difference(ours, theirs, ["a", "a", "a", "b", "b", "b"])
    assert prompts == 4 and mean == pytest.approx((2 / 3 - 0.5) / 2)
    assert (low, high) == pytest.approx(((0 - 0.5) / 2, (1 - 0.5) / 2)), "the one prompt of b is always drawn"


def test_a_difference_is_of_what_both_rows_have():
    rows = {"a": {"gold": np.ones(4), "gold_greedy": np.zeros(4), "only/a": np.ones(4)}, "b": {"gold": np.zeros(4)}}
    rows["c"] = {"gold": np.full(4, np.nan), "gold_greedy": np.full(4, 0.25)}
    assert list(differences(rows, [("a", "b"), ("a", "c")])) == [
        {"row": "a", "minus": "b", "metric": "gold", "difference": 1.0, "interval": [1.0, 1.0], "prompts": 4},
        {"row": "a", "minus": "c", "metric": "gold_greedy", "difference": -0.25, "interval": [-0.25, -0.25],
         "prompts": 4},
    ]  # fmt: skip
