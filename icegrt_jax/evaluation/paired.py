"""Differences of two rows of the table, prompt by prompt, with 95 % intervals by bootstrap over the prompts.

Both rows answer the same prompts, of which some are hard for either: that part of the noise is not in the difference.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from icegrt_jax.evaluation.intervals import resampled

RESAMPLES = 10_000
LOW, HIGH = 0.025, 0.975

Numbers = Mapping[str, np.ndarray]  # f64[N] of each metric, NaN where a prompt does not have it


def column(grades: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    """One number of every prompt, f64[N]."""
    return np.array([grade.get(name, np.nan) for grade in grades], dtype=np.float64)


def bootstrap(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """Low and high of the mean over the parts of their means, the numbers of each part being drawn anew.

    The percentile interval of Efron 1979, https://doi.org/10.1214/aos/1176344552. One part is the usual mean; the parts
    of the general tasks are the tasks, which stay the same. The draws are the same at every call.
    """
    rng = np.random.default_rng(0)
    means = np.mean([resampled(part[:, None], rng, RESAMPLES)[:, 0] / len(part) for part in parts], axis=0)
    return float(np.quantile(means, LOW)), float(np.quantile(means, HIGH))


def difference(ours: np.ndarray, theirs: np.ndarray, groups: Sequence[str] = ()) -> tuple[float, float, float, int]:
    """Mean of ours minus theirs, low, high, and the prompts that have both.

    Args:
      ours, theirs: f64[N], prompt by prompt.
      groups: of each prompt, where the mean is that of the groups' means.
    """
    apart = ours - theirs
    there = np.isfinite(apart)
    names = np.array(groups or [""] * len(apart))
    parts = [apart[there & (names == name)] for name in sorted(set(names[there]))]
    mean = float(np.mean([part.mean() for part in parts]))
    return mean, *bootstrap(parts), int(there.sum())


def differences(
    rows: Mapping[str, Numbers], pairs: Sequence[tuple[str, str]], tasks: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """What each row of a pair has more than the other, of every metric that both have.

    Args:
      pairs: (row, the one it is compared with).
      tasks: of the prompts of "general".
    """
    for row, minus in pairs:
        for metric, ours in rows[row].items():
            theirs = rows[minus].get(metric)
            if theirs is None or not np.isfinite(ours - theirs).any():
                continue
            mean, low, high, prompts = difference(ours, theirs, tasks if metric == "general" else ())
            yield {
                "row": row, "minus": minus, "metric": metric, "difference": mean, "interval": [low, high],
                "prompts": prompts,
            }  # fmt: skip


def best(rows: Mapping[str, Numbers], less: Collection[str], tasks: Sequence[str] = ()) -> dict[str, str]:
    """{metric: the row that is better in it than every other}, of the metrics where the intervals say so.

    The row with the best mean is compared with each other row that has the metric, prompt by prompt: one whose interval
    of the difference holds 0 might be as good.

    Args:
      less: metrics of which less is better, by their name behind the last slash.
      tasks: of the prompts of "general".
    """
    found = {}
    for metric in dict.fromkeys(name for row in rows.values() for name in row):
        having = {name: row[metric] for name, row in rows.items() if metric in row and np.isfinite(row[metric]).any()}
        if len(having) < 2:
            continue
        sign = -1.0 if metric.rpartition("/")[2] in less else 1.0
        first = max(having, key=lambda name: sign * float(np.nanmean(having[name])))
        apart = [sign * (having[first] - theirs) for name, theirs in having.items() if name != first]
        lows = [difference(x, np.zeros_like(x), tasks if metric == "general" else ())[1]
                for x in apart if np.isfinite(x).any()]  # fmt: skip
        if lows and min(lows) > 0:
            found[metric] = first
    return found
