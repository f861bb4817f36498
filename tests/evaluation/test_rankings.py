"""How right a reward model is on rankings, against `rl.ranking` and by hand."""

import dataclasses
import itertools

import numpy as np
import pytest

from icegrt_jax.evaluation.best_of import best_of, expected_quality, quality_of_ranks, sizes
from icegrt_jax.evaluation.intervals import bootstrap
from icegrt_jax.evaluation.rankings import Scored, mean_of_parts, measure, reliability
from icegrt_jax.evaluation.ties import ties_score
from icegrt_jax.rl import calibration, ranking_accuracy


def scored(scores, ranks, *, valid=None, lengths=None, meta=None):
    scores, ranks = np.array(scores, np.float64), np.array(ranks, np.float64)
    count, k = scores.shape
    valid = np.ones((count, k), bool) if valid is None else np.array(valid, bool)
    lengths = np.ones((count, k), int) if lengths is None else np.array(lengths)
    same = np.broadcast_to(np.eye(k, dtype=bool), (count, k, k)).copy()
    return Scored(scores, ranks, valid, lengths, same, meta or [{}] * count)


@pytest.fixture
def drawn():
    """40 prompts with two to five answers, some of the same words, ranked with ties."""
    rng = np.random.default_rng(0)
    valid = np.arange(5) < rng.integers(2, 6, (40, 1))
    ranks, lengths = rng.integers(1, 4, (40, 5)), rng.integers(5, 90, (40, 5))
    found = scored(rng.normal(-0.5 * ranks, 1.0).round(1), ranks, valid=valid, lengths=lengths)
    found.same[:, 0, 1] = found.same[:, 1, 0] = rng.random(40) < 0.3
    return found


def test_accuracy_and_calibration_are_those_of_the_reward_stage(drawn):
    arrays = [x.astype(np.float32) for x in (drawn.scores, drawn.ranks)]
    numbers, bins = measure(drawn), calibration(*arrays, drawn.valid, same=drawn.same)
    accuracy = ranking_accuracy(*arrays, drawn.valid, same=drawn.same)
    assert numbers["accuracy"].value == pytest.approx(float(accuracy), abs=1e-6)
    assert numbers["calibration_error"].value == pytest.approx(float(bins.ece), abs=1e-6)
    for name, values in reliability(drawn).items():
        np.testing.assert_allclose(values, getattr(bins, name), atol=1e-6)
    for estimate in numbers.values():
        assert estimate.low <= estimate.value <= estimate.high and estimate.low < estimate.high


def test_what_goes_by_length_alone_is_told_from_what_is_right():
    lengths, ranks = [[9, 3], [9, 3], [3, 9], [4, 4]], [[1, 2], [2, 1], [2, 1], [1, 2]]
    numbers = measure(scored(lengths, ranks, lengths=lengths))
    values = {name: numbers[name].value for name in numbers}
    assert (values["better_is_longer"], values["better_is_shorter"]) == (1.0, 0.0)
    assert values["prefers_longer"] == 1.0 and values["longer_is_better"] == pytest.approx(2 / 3)
    assert values["length_correlation"] == pytest.approx(1.0) and values["accuracy"] == 0.5
    assert numbers["prefers_longer"].count == 3  # equal lengths say nothing
    shorter = measure(scored(-np.array(lengths), ranks, lengths=lengths))
    assert shorter["prefers_longer"].value == 0.0 and shorter["length_correlation"].value == pytest.approx(-1.0)


def test_score_and_length_are_compared_within_a_prompt(drawn):
    far = dataclasses.replace(drawn, scores=drawn.scores + 100.0 * drawn.lengths[:, :1])
    assert measure(far)["length_correlation"].value == pytest.approx(measure(drawn)["length_correlation"].value)
    one = drawn.take([0])
    expected = np.corrcoef(one.scores[one.valid], one.lengths[one.valid])[0, 1]
    assert measure(one)["length_correlation"].value == pytest.approx(expected)


def test_best_counts_whose_highest_score_is_a_best_answers():
    numbers = measure(scored([[3, 1, 2, 0], [1, 3, 2, 0], [2, 2, 1, 0], [5, 4, 9, 1]],
                             [[1, 2, 2, 2], [1, 2, 2, 2], [1, 2, 2, 2], [1, 1, 1, 1]]))  # fmt: skip
    assert numbers["best"].value == pytest.approx((1 + 0 + 0.5) / 3)  # the last prompt has no best one


def test_styles_are_counted_as_rm_bench_does(drawn):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(30, 6))
    numbers = measure(scored(scores, [[1, 1, 1, 2, 2, 2]] * 30, meta=[{"styles": [0, 1, 2] * 2}] * 30))
    matrix = (scores[:, :3, None] > scores[:, None, 3:]).mean(axis=0)  # better one's style, worse one's
    expected = np.triu(matrix, 1).sum() / 3, np.diag(matrix).mean(), np.tril(matrix, -1).sum() / 3, matrix.mean()
    names = ("hard", "normal", "easy", "accuracy")
    assert [numbers[name].value for name in names] == pytest.approx(list(expected))
    assert not {"hard", "normal", "easy"} & measure(drawn).keys()


def test_a_mean_over_parts_weighs_every_part_alike(drawn):
    parts = [measure(drawn.take(range(30))), measure(drawn.take(range(30, 40)))]
    mean = mean_of_parts(parts)["accuracy"]
    assert mean.value == pytest.approx((parts[0]["accuracy"].value + parts[1]["accuracy"].value) / 2)
    assert mean.high - mean.low > (parts[0]["accuracy"].high - parts[0]["accuracy"].low) / 2


def test_best_of_n_is_what_all_draws_give(drawn):
    rng = np.random.default_rng(2)
    scores, quality = np.array([1.0, 3.0, 3.0, 0.0, 2.0, 3.0]), rng.random(6)
    for n in range(1, 7):
        taken = []
        for draw in itertools.combinations(range(6), n):
            top = [i for i in draw if scores[i] == max(scores[j] for j in draw)]
            taken.append(quality[top].mean())
        assert expected_quality(scores, quality, n) == pytest.approx(np.mean(taken))


def test_who_ranks_as_the_ranks_do_gains_all_and_who_knows_nothing_gains_nothing(drawn):
    quality = quality_of_ranks(drawn)
    assert quality[drawn.valid].min() >= 0.0 and quality[drawn.valid].max() <= 1.0
    perfect = best_of(dataclasses.replace(drawn, scores=-drawn.ranks), quality)
    assert [one.n for one in perfect] == sizes(drawn.valid.sum(axis=1)) and len(perfect) > 1
    for one in perfect:
        assert one.gain.value == pytest.approx(1.0) and one.taken.value == pytest.approx(one.best)
        assert one.random == pytest.approx(0.5)
    nothing = best_of(dataclasses.replace(drawn, scores=np.zeros_like(drawn.scores)), quality)
    assert [one.gain.value for one in nothing] == pytest.approx([0.0] * len(nothing))
    inverse = best_of(dataclasses.replace(drawn, scores=drawn.ranks), quality)
    assert all(one.gain.value < -0.3 and one.gain.high < 0.0 for one in inverse)


def test_sizes_go_as_far_as_half_of_the_prompts():
    assert sizes(np.array([2, 2, 9])) == [2] and sizes(np.array([8, 8, 9])) == [2, 4, 8]
    assert sizes(np.array([6, 6, 6])) == [2, 4, 6] and sizes(np.array([1, 1])) == []


def test_the_score_of_ties_by_hand():
    meta = [{"id": f"{kind}:{n}"} for n in (0, 1) for kind in ("ref", "tied")]
    # 0: all right, the tied ones spread 1 and lie 3 above. 1: the single one is right by 1; the tied ones spread 2 and
    # lie 1 above the wrong ones, so their spread is the larger one in both.
    found = scored(
        [[5, 0, 0, 0], [5, 4, 1, 0], [2, 1, 0, 0], [4, 2, 1, 0]],
        [[1, 2, 2, 2], [1, 1, 2, 2], [1, 2, 2, 2], [1, 1, 2, 2]], meta=meta,
    )  # fmt: skip
    margins = np.tanh([3 / 1 - 1, 1 / 2 - 1]).mean()
    assert ties_score(found).value == pytest.approx(0.3 + 0.3 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * margins)
    assert ties_score(dataclasses.replace(found, meta=[{}] * 4)) is None


def test_the_bootstrap_of_a_mean_is_its_normal_interval():
    rng = np.random.default_rng(3)
    rows = rng.normal(2.0, 1.0, (400, 1))
    value, low, high = bootstrap(rows, lambda sums: sums[:, 0], mean=True)
    half = 1.96 * rows.std() / np.sqrt(400)
    assert value == pytest.approx(rows.mean()) and (low, high) == pytest.approx((value - half, value + half), abs=0.02)
    mirrored = bootstrap(rows, lambda sums: sums[:, 0], mean=True, pivotal=True)
    assert mirrored == pytest.approx((value, 2 * value - high, 2 * value - low))


def test_a_calibration_error_has_bounds_that_noise_does_not_push_up():
    rng = np.random.default_rng(4)
    margins = rng.normal(0.0, 1.5, 2000)
    right = rng.random(2000) < 1 / (1 + np.exp(-margins))  # as sure as it is right
    ranks = np.where(right[:, None], [1, 2], [2, 1])
    honest, boasting = (
        measure(scored(np.stack([x, 0 * x], axis=1), ranks))["calibration_error"] for x in (margins, 5 * margins)
    )
    assert honest.low < 0.01 < honest.value < honest.high < 0.05
    assert 0.1 < boasting.low < boasting.value < boasting.high
