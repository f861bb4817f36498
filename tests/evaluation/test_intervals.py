"""Intervals of mean grades, by hand and by drawing."""

import numpy as np
import pytest

from icegrt_jax.data.records import Prompt, user
from icegrt_jax.evaluation.intervals import grade_intervals, interval, student, task_interval
from icegrt_jax.evaluation.judges import grade_all, load, mean_grades


def test_of_right_and_wrong_it_is_wilsons_interval():
    # 8 of 10 right: the usual example, 0.490 to 0.943.
    assert interval(0.8, 0.16, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert interval(1.0, 0.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_it_holds_the_true_mean_of_fractional_grades_in_about_95_of_100_draws():
    rng = np.random.default_rng(0)
    drawn = rng.beta(2.0, 1.0, (4000, 60))
    bounds = [interval(x.mean(), x.var(), x.size) for x in drawn]
    covered = np.mean([low <= 2 / 3 <= high for low, high in bounds])
    assert 0.94 <= covered <= 0.97
    assert np.mean([high - low for low, high in bounds]) < 1.2 * 2 * 1.96 * np.sqrt(1 / 18 / 60), "not those of a coin"


def test_every_number_of_a_judge_gets_one_that_holds_its_mean():
    records = [Prompt(user("?"), reference="Answer: a\nExplanation: it is so", meta={"answer": "a"})] * 4
    answers = ["Answer: a\nExplanation: it is so", "Answer: b\nExplanation: it is", "Answer: a", "no"]
    grades = grade_all([load("k", "choice")] * 4, records, answers)
    means, found = mean_grades(grades), grade_intervals(grades)
    assert found.keys() == means.keys()
    assert all(low < means[name] < high for name, (low, high) in found.items())


def test_the_mean_over_tasks_weighs_every_task_alike():
    gold, tasks = [1.0] * 2 + [0.0] * 9 + [1.0], ["few"] * 2 + ["many"] * 10
    low, high = task_interval(gold, tasks)
    assert low < 0.55 < high and abs((low + high) / 2 - 0.55) < 0.05
    assert task_interval(gold, ["one"] * 12) == grade_intervals([{"gold": x} for x in gold])["gold"]


def test_an_interval_over_seeds_is_student_s():
    # Of 10, 20 and 30 the mean is 20, the deviation 10; Student's t of two degrees of freedom is 4.303.
    mean, half = student([10, 20, 30])
    assert mean == 20 and half == pytest.approx(4.3027 * 10 / 3**0.5, rel=1e-4)
    means, halves = student(np.array([[10.0, 1.0], [20.0, 1.0], [30.0, 1.0]]))
    assert means.tolist() == [20, 1] and halves == pytest.approx([half, 0])
