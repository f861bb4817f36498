"""Scores scaled by the moments of their own source, and spreads for the metrics, against the float64 references."""

import jax
import numpy as np
import pytest

from icegrt_jax import rl
from tests.rl import masks, references

given = pytest.importorskip("hypothesis").given
from hypothesis import strategies as st  # noqa: E402 - of the extra `test`

SOURCES, CLIP = ("ads", "code", "math"), 1.5
scale_by_source = jax.jit(rl.scale_by_source, static_argnames=("method", "clip"))
spread = jax.jit(rl.spread)
numbers_of = st.lists(st.integers(0, 2), min_size=masks.ROWS, max_size=masks.ROWS).map(lambda x: np.array(x, np.int32))


@masks.RANDOM
@given(masks.arrays(masks.ROWS), numbers_of, masks.arrays(masks.ROWS))
def test_each_source_is_scaled_as_in_the_reference(scores, sources, earlier):
    halves = {0: earlier[:2], 1: earlier[2:], 2: earlier[:0]}  # nothing of the third has been seen
    moments = {0: (0.5, 2.0), 1: (-1.0, 0.5), 2: (0.0, 0.0)}
    stats = {}
    for number, name in enumerate(SOURCES):
        stats[name] = rl.ScoreStats.create(*moments[number])
        if len(halves[number]):
            stats[name] = stats[name].update(halves[number])
    before = {number: (halves[number].astype(float), *moments[number]) for number in halves}
    for method in ("reference", "running_std", "running_mean_std"):
        got, moved = scale_by_source(scores, sources, stats, method=method, clip=CLIP)
        expected = references.scale_by_source(scores, sources, before, method, CLIP)
        np.testing.assert_allclose(got, expected, atol=2e-3, rtol=1e-3, err_msg=method)
    for number, name in enumerate(SOURCES):
        assert int(moved[name].count) == len(halves[number]) + int(np.sum(sources == number))


def test_a_source_with_high_scores_far_apart_is_worth_no_more_than_another():
    scores, sources = np.float32([10, 30, 0.1, 0.3]), np.array([1, 1, 0, 0])
    stats = {"a": rl.ScoreStats.create(), "b": rl.ScoreStats.create()}
    got, _ = scale_by_source(scores, sources, stats, method="running_mean_std", clip=0.0)
    np.testing.assert_allclose(got, [-1, 1, -1, 1], atol=1e-5)
    together, _ = rl.scale_scores(scores, rl.ScoreStats.create(), method="running_mean_std")
    assert np.ptp(together[2:]) < 0.05


@masks.RANDOM
@given(masks.arrays(masks.ROWS, masks.LENGTH), masks.any_mask())
def test_a_spread_is_that_of_the_valid_elements(x, mask):
    got, expected = spread(np.where(mask, x, np.nan), mask), references.spread(x, mask)
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5, err_msg=name)
