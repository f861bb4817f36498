"""The curves of a stage as the page draws them: of each panel that has data its lines, bands and marks."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from icegrt_jax.report import words
from icegrt_jax.report.panels import Panel

MOST_LINES = 8  # of a panel
MOST_POINTS = 600  # of a line: more than a screen has
FEW = 25  # up to so many points every one is drawn, unsmoothed
DIGITS = 5

Row = Mapping[str, Any]


def panels_of(
    rows: Sequence[Row], panels: Iterable[Panel], marks: Sequence[tuple[str, int, str]] = ()
) -> list[dict[str, Any]]:
    """The panels that have data.

    Args:
      rows: {"step": ..., metric: number}; a row need not have every metric, and a step may have several rows.
      panels: what to draw, in order.
      marks: (metric, step, alarm), a line in the panel of the metric where an alarm has begun.
    """
    found = []
    for panel in panels:
        if names := names_in(rows, panel):
            found.append(
                {
                    "title": panel.title, "group": panel.group, "share": panel.share, "stacked": panel.stacked,
                    "lines": [_line(rows, name, panel.smooth and not panel.stacked) for name in names],
                    "bands": _bands(rows, names),
                    "marks": [{"step": step, "alarm": alarm} for metric, step, alarm in marks if metric in names],
                }
            )  # fmt: skip
    return found


def names_in(rows: Sequence[Row], panel: Panel) -> list[str]:
    """The metrics of a panel that have a number that is finite."""
    known = dict.fromkeys(name for row in rows for name in row)
    left_out = lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in panel.without)
    matching = [
        name for pattern in panel.names for name in known if fnmatch.fnmatchcase(name, pattern) and not left_out(name)
    ]
    found = [name for name in dict.fromkeys(matching) if np.isfinite(series(rows, name)[1]).any()]
    return found[:MOST_LINES]


def series(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric, in the order of the rows."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps = np.array([step for step, _ in points])
    return steps, np.array([np.nan if value is None else value for _, value in points], float)


def smoothed(values: np.ndarray, *, half: int) -> np.ndarray:
    """Returns the mean of each value and the `half` on either side of it, f[N]; NaNs are left out of the means."""
    kernel = np.ones(2 * half + 1)
    valid = np.isfinite(values)
    total = np.convolve(np.where(valid, values, 0.0), kernel)[half : half + len(values)]
    count = np.convolve(valid.astype(float), kernel)[half : half + len(values)]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def numbers(values: Iterable[float]) -> list[float | None]:
    """As JSON has them, with a few digits; what is not finite is null."""
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]


def thinned(steps: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of more than `MOST_POINTS` so many, spread over all; the first and the last are among them."""
    if len(steps) <= MOST_POINTS:
        return steps, *columns
    chosen = np.linspace(0, len(steps) - 1, MOST_POINTS).round().astype(int)
    return tuple(x[chosen] for x in (steps, *columns))


def _line(rows: Sequence[Row], name: str, smooth: bool) -> dict[str, Any]:
    steps, values = series(rows, name)
    line = {"name": words.curve_of(name), "metric": name}
    if not smooth or len(values) <= FEW:
        steps, values = thinned(steps, values)
        return {**line, "x": steps.tolist(), "y": numbers(values)}
    trend = smoothed(values, half=max(len(values) // 30, 1))
    steps, values, trend = thinned(steps, values, trend)
    return {**line, "x": steps.tolist(), "y": numbers(values), "trend": numbers(trend)}


def _bands(rows: Sequence[Row], names: Sequence[str]) -> list[dict[str, Any]]:
    """Intervals of the lines, NAME_low and NAME_high, and the KL controller's band with its target."""
    found = []
    pairs = [(name, f"{name}_low", f"{name}_high") for name in names if name != "kl"]
    if "kl" in names:
        pairs.append(("target", "kl_low", "kl_high"))
    for name, low, high in pairs:
        having = [row for row in rows if low in row and high in row]
        if having:
            steps, lows = series(having, low)
            steps, lows, highs = thinned(steps, lows, series(having, high)[1])
            band = {"of": name, "x": steps.tolist(), "low": numbers(lows), "high": numbers(highs)}
            if name == "target":
                band["middle"] = numbers(thinned(*series(having, "kl_target"))[1])
            found.append(band)
    return found


def frontier(rows: Sequence[Row], saved_every: int) -> dict[str, Any] | None:
    """What a score costs in KL: a point for each iteration, and which of them have a checkpoint; None without a score.

    Scores are the reward model's, or the scaled sum; gold of the rollouts and of held-out prompts where it is measured.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for row in rows:
        by_step.setdefault(row["step"], {}).update(row)
    merged = [row for _, row in sorted(by_step.items()) if row.get("kl") is not None]
    titles = {
        "score_raw": "score by the reward model", "score_scaled": "score, scaled", "gold": "judge of the rollouts",
        "heldout/gold": "held-out prompts, sampled", "heldout/gold_greedy": "held-out prompts, greedy",
    }  # fmt: skip
    found = []
    for name, title in titles.items():
        having = [row for row in merged if row.get(name) is not None and np.isfinite((row[name], row["kl"])).all()]
        if having:
            places = thinned(np.arange(len(having)))[0]
            having = [having[i] for i in places]
            found.append(
                {
                    "metric": name, "title": title, "step": [row["step"] for row in having],
                    "kl": numbers(row["kl"] for row in having), "score": numbers(row[name] for row in having),
                }
            )  # fmt: skip
    return {"scores": found, "saved_every": saved_every} if found else None


def histograms(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of some iterations the scores of the answers, raw and scaled, counted in bins."""
    names = {"score_histogram": "raw", "scaled_histogram": "scaled"}
    having = [row for row in rows if any(name in row for name in names)]
    chosen = np.linspace(0, len(having) - 1, min(len(having), 24)).round().astype(int)
    return [
        {"step": having[i]["step"], **{title: having[i][name] for name, title in names.items() if name in having[i]}}
        for i in dict.fromkeys(chosen.tolist())
    ]
