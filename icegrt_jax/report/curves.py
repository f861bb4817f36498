"""The figures of a run: a panel per metric, raw values behind a smoothed line, and bars for the evaluation."""

import fnmatch
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")  # before pyplot: a figure is a file here, never a window

import matplotlib.pyplot as plt
import numpy as np

from icegrt_jax.evaluation.table import COLUMNS, Columns
from icegrt_jax.report.panels import Panel

_STYLE = {
    "figure.dpi": 110,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "axes.edgecolor": "#8a929c",
    "xtick.color": "#4a525c",
    "ytick.color": "#4a525c",
    "axes.formatter.limits": (-3, 5),
    "legend.frameon": False,
    "legend.fontsize": 10,
}
_LINES = ("#1f6fb4", "#d9692b", "#3a9160", "#8e5bb5")
# Grey for where a run starts, blue for what it ends with.
_MODELS = ("#a9b1ba", "#e2a458", "#6fae85", "#1f6fb4", "#8e5bb5", "#c95d6b")
GROUPS = {"greedy": "greedy answers", "best": "at its best temperature"}  # of metrics, GROUP/NAME
_ALARM = "#c0392b"
_FEW = 25  # up to so many points every one is drawn, unsmoothed


def training_figure(
    rows: Sequence[dict], panels: Sequence[Panel], title: str, marks: Sequence[tuple[str, int, str]] = ()
) -> plt.Figure:
    """Draws the panels that have data.

    Args:
      rows: of a `metrics.jsonl`; a row need not have every metric.
      panels: what to draw, in order.
      title: of the whole figure.
      marks: (metric, step, alarm), a line in the panel of the metric where an alarm has begun.
    """
    drawn = [(panel, names) for panel in panels if (names := _present(rows, panel))]
    with plt.rc_context(_STYLE):
        figure, axes = _grid(max(len(drawn), 1), title)
        if not drawn:
            axes[0].text(0.5, 0.5, "no metrics yet", ha="center", va="center", transform=axes[0].transAxes)
        for ax, (panel, names) in zip(axes, drawn):
            for name, color in zip(names, _LINES):
                _curve(ax, *_series(rows, name), name, color, panel.smooth)
            ax.set_title(panel.title)
            ax.set_xlabel("step")
            for metric, step, alarm in marks:
                if metric in names:
                    ax.axvline(step, color=_ALARM, linewidth=1.2, linestyle="--", label=alarm)
            if len(names) > 1 or any(metric in names for metric, _, _ in marks):
                ax.legend()
            if "kl" in names:
                _target(ax, rows)
            if "ratio" in names:
                ax.axhline(1.0, color="#4a525c", linewidth=0.8, linestyle=":")
    return figure


def calibration_figure(calibration: dict) -> plt.Figure:
    """Draws how often the reward model is right against how sure it is.

    Args:
      calibration: lists of one length, a bin each: "confidence", the mean probability given to
        the answer it prefers; "accuracy", how often that one is the better; "count", its pairs.
    """
    confidence, accuracy, count = (np.asarray(calibration[k], float) for k in ("confidence", "accuracy", "count"))
    seen = count > 0
    with plt.rc_context(_STYLE):
        figure, ax = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
        ax.plot([0, 1], [0, 1], color="#8a929c", linestyle="--", linewidth=1, label="perfectly calibrated")
        ax.plot(confidence[seen], accuracy[seen], color=_LINES[0], linewidth=1.5)
        size = 25 + 250 * count[seen] / max(count.max(), 1)
        ax.scatter(confidence[seen], accuracy[seen], s=size, color=_LINES[0], alpha=0.8, label="area: pairs", zorder=3)
        low = min(0.5, confidence[seen].min(initial=0.5), accuracy[seen].min(initial=0.5)) - 0.03
        ax.set(xlim=(low, 1.03), ylim=(low, 1.03), title="Calibration of the reward model")
        ax.set(xlabel="its probability of the better answer", ylabel="how often it is right")
        ax.legend(loc="upper left", markerscale=0.6)
    return figure


def evaluation_figure(rows: Sequence[dict], columns: Columns = COLUMNS) -> plt.Figure:
    """Draws the columns of the table as bars, a bar per model; below, each group of detailed metrics.

    Args:
      rows: `{"name": model, "metrics": {"verdict": ..., "general/<task>": ...}}`, in order.
      columns: of the table.
    """
    names, titles = metric_names(rows), {**GROUPS, **dict(columns)}
    headline = [key for key in titles if key in names]
    groups: dict[str, list[str]] = {}
    for name in names:
        if "/" in name:
            groups.setdefault(name.split("/")[0], []).append(name)
    with plt.rc_context(_STYLE | {"axes.grid.axis": "y"}):
        figure = plt.figure(figsize=(13, 3.6 + 3.2 * len(groups)), layout="constrained")
        grid = figure.add_gridspec(1 + len(groups), max(len(headline), 1))
        for i, name in enumerate(headline):
            ax = figure.add_subplot(grid[0, i])
            values = [_value(row, name) for row in rows]
            bars = ax.bar(range(len(rows)), values, color=[_color(m) for m in range(len(rows))], width=0.75)
            digits = 1 if name == "length" else 2
            labels = [f"{v:.{digits}f}" if np.isfinite(v) else "–" for v in values]
            ax.bar_label(bars, labels, padding=2, fontsize=9)
            ax.set_title(titles[name])
            ax.set_xticks([])
            ax.margins(y=0.12)
        for i, (group, members) in enumerate(groups.items(), start=1):
            _bars_by_name(figure.add_subplot(grid[i, :]), rows, members, titles.get(group, group))
        handles = [plt.Rectangle((0, 0), 1, 1, color=_color(m)) for m in range(len(rows))]
        figure.legend(
            handles, [r["name"] for r in rows], loc="outside upper center", ncols=min(len(rows), 6), fontsize=11
        )
    return figure


def _bars_by_name(ax, rows: Sequence[dict], names: Sequence[str], title: str) -> None:
    """A group of bars per metric, a bar per model that has it."""
    width = 0.8 / len(rows)
    for m, row in enumerate(rows):
        x = np.arange(len(names)) + (m - (len(rows) - 1) / 2) * width
        ax.bar(x, [_value(row, name) for name in names], width=0.92 * width, color=_color(m))
    labels = [name.split("/", 1)[1].replace("_", " ") for name in names]
    crowded = len(names) > 8
    ax.set_xticks(range(len(names)), labels, rotation=25 * crowded, ha="right" if crowded else "center")
    ax.margins(x=0.01)
    ax.set_title(title)


def metric_names(rows: Sequence[dict]) -> list[str]:
    """Returns the names of the metrics that any row has, in the order they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row["metrics"]))


def _present(rows: Sequence[dict], panel: Panel) -> list[str]:
    known = dict.fromkeys(name for row in rows for name in row)
    left_out = lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in panel.without)
    matching = [
        name for pattern in panel.names for name in known if fnmatch.fnmatchcase(name, pattern) and not left_out(name)
    ]
    return [name for name in dict.fromkeys(matching) if np.isfinite(_series(rows, name)[1]).any()][: len(_LINES)]


def _series(rows: Sequence[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = zip(*points)
    return np.asarray(steps), np.asarray(values, float)


def _curve(ax, steps: np.ndarray, values: np.ndarray, name: str, color: str, smooth: bool) -> None:
    if len(values) <= _FEW:
        ax.plot(steps, values, color=color, marker="o", markersize=3.5, label=name)
    elif smooth:
        ax.plot(steps, values, color=color, alpha=0.25, linewidth=0.9)
        ax.plot(steps, smoothed(values, half=max(len(values) // 30, 1)), color=color, linewidth=1.9, label=name)
    else:
        ax.plot(steps, values, color=color, linewidth=1.9, label=name)


def smoothed(values: np.ndarray, *, half: int) -> np.ndarray:
    """Returns the mean of each value and the `half` on either side of it, f[N]; NaNs are left out of the means."""
    kernel = np.ones(2 * half + 1)
    valid = np.isfinite(values)
    total = np.convolve(np.where(valid, values, 0.0), kernel)[half : half + len(values)]
    count = np.convolve(valid.astype(float), kernel)[half : half + len(values)]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _target(ax, rows: Sequence[dict]) -> None:
    """Draws the KL target and the band around it, where a run has one."""
    points = [(row["step"], row["kl_target"], row["kl_low"], row["kl_high"]) for row in rows if "kl_low" in row]
    if points:
        steps, target, low, high = np.asarray(points, float).T
        ax.plot(steps, target, color="#4a525c", linestyle="--", linewidth=1, label="target")
        ax.fill_between(steps, low, high, color="#4a525c", alpha=0.1, linewidth=0)
        ax.legend()


def _grid(count: int, title: str) -> tuple[plt.Figure, list]:
    columns = {1: 1, 2: 2, 4: 2}.get(count, 3)
    height = -(-count // columns)
    figure, axes = plt.subplots(
        height, columns, figsize=(4.6 * columns, 3.0 * height + 0.5), layout="constrained", squeeze=False
    )
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
    figure.get_layout_engine().set(h_pad=0.09, w_pad=0.07)
    for ax in axes.flat[count:]:
        ax.remove()
    return figure, list(axes.flat[:count])


def _value(row: dict, name: str) -> float:
    value = row["metrics"].get(name)
    return np.nan if value is None else float(value)


def _color(model: int) -> str:
    return _MODELS[model % len(_MODELS)]
