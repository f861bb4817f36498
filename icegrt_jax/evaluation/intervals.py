"""95 % intervals of mean grades over the prompts that were asked."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Z = 1.96
RESAMPLES = 1000
BLOCK = 2**20  # numbers drawn at a time


def interval(mean: float, variance: float, count: int) -> tuple[float, float]:
    """Bounds of a mean of `count` numbers in [0, 1] whose variance, of one of them, is `variance`.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953: of numbers that are 0 or 1 it is his interval; where
    all are equal it still has a width.
    """
    widened = 1 + Z**2 / count
    centre = (mean + Z**2 / (2 * count)) / widened
    half = Z / widened * math.sqrt(variance / count + Z**2 / (4 * count**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def student(values: Sequence[float] | np.ndarray) -> tuple[Any, Any]:
    """Mean over the first axis, of seeds for instance, and half the width of its interval by Student's t."""
    from scipy import stats  # a second, which only studies take

    rows: np.ndarray = np.asarray(values, np.float64)
    return rows.mean(axis=0), stats.t.ppf(0.975, len(rows) - 1) * stats.sem(rows, axis=0)


def grade_intervals(grades: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """For every number of the answers' grades, low and high of its mean over those that have it."""
    names = dict.fromkeys(name for grade in grades for name in grade)
    columns = {name: np.array([grade[name] for grade in grades if name in grade]) for name in names}
    return {name: list(interval(x.mean(), x.var(), len(x))) for name, x in columns.items()}


def task_interval(gold: Sequence[float], tasks: Sequence[str]) -> list[float]:
    """Low and high of the mean over tasks of the tasks' mean grades; the tasks stay the same, their prompts vary."""
    grades = np.array(gold)
    parts = [grades[[task == name for task in tasks]] for name in sorted(set(tasks))]
    mean = float(np.mean([part.mean() for part in parts]))
    variance = sum(part.var() / len(part) for part in parts) / len(parts) ** 2
    return list(interval(mean, variance * len(gold), len(gold)))


def bootstrap(
    rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, mean: bool = False, pivotal: bool = False
) -> tuple[float, float, float]:
    """A number made of sums over prompts, and its bounds: 2.5 and 97.5 % of what prompts drawn again give.

    Efron 1979, https://doi.org/10.1214/aos/1176344552. The draws are the same at every call.

    Args:
      rows: f64[B, ...], what each prompt adds to the sums.
      statistic: from sums f64[R, ...] to R numbers.
      mean: of their means instead.
      pivotal: bounds by how far the drawn numbers lie from the number itself, for one that chance pushes one way.
    """
    flat = rows.reshape(len(rows), -1)
    sums = np.concatenate([flat.sum(axis=0)[None], resampled(flat, np.random.default_rng(0), RESAMPLES)])
    found = statistic((sums / len(rows) if mean else sums).reshape(len(sums), *rows.shape[1:]))
    value, (low, high) = float(found[0]), np.percentile(found[1:], (2.5, 97.5))
    return (value, 2 * value - float(high), 2 * value - float(low)) if pivotal else (value, float(low), float(high))


def resampled(rows: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Sums f64[count, M] of rows f64[B, M], each of B of them drawn with replacement."""
    size, step = len(rows), max(1, BLOCK // rows.size)
    blocks = (min(step, count - start) for start in range(0, count, step))
    return np.concatenate([rows[rng.integers(size, size=(block, size))].sum(axis=1) for block in blocks])
