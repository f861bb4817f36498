"""Curves that grow while a training goes on, of several trainings over each other, and how sure a reward model is."""

import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from icegrt_jax import rl
from icegrt_jax.api.models import score
from icegrt_jax.api.training import Training
from icegrt_jax.data.records import Ranking
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model

SECONDS = 2.0  # between two pictures of a training
LINES = ("#1f6fb4", "#d9692b", "#3a9160", "#8e5bb5")
WIDE = 3  # panels beside each other
FEW = 25  # points that are drawn as such


class Picture:
    """A figure as PNG: a notebook shows it whatever its backend is."""

    def __init__(self, figure: Figure):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
        self.figure, self._png = figure, buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self._png


def watch(training: Training, *names: str, every: float = SECONDS) -> Iterator[tuple]:
    """Goes over a training, and draws these metrics in one picture that is drawn anew as it goes on.

    Args:
      names: of `training.metrics`.
      every: seconds between two pictures; the last one has all.
    """
    from IPython.display import display

    shown, drawn = None, -math.inf
    try:
        for given in training:
            yield given
            if time.monotonic() - drawn >= every:
                picture = curves(training, *names)
                if shown is None:
                    shown = display(picture, display_id=True)
                else:
                    shown.update(picture)
                drawn = time.monotonic()
    finally:
        if shown is not None:
            shown.update(curves(training, *names))


def finish(training: Training, *names: str, every: float = SECONDS) -> Model:
    """`Training.finish`, watched."""
    for _ in watch(training, *names, every=every):
        pass
    return training.model


def curves(trainings: Training | Mapping[str, Training], *names: str) -> Picture:
    """Metrics of a training, or of several by name over each other; changes of its options are dashed lines."""
    several = trainings if isinstance(trainings, Mapping) else {"": trainings}
    if not names:
        raise UserError("names: say which metrics, such as 'loss'.")
    known = {name for training in several.values() for row in training.metrics for name in row}
    missing = [name for name in names if known and name not in known]
    if missing:
        raise UserError(f"no metric {missing[0]!r}; they are {', '.join(sorted(known - {'step'}))}.")
    width = min(len(names), WIDE)
    height = -(-len(names) // width)
    figure = Figure(figsize=(4.2 * width, 2.8 * height), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for axis, name in zip(axes.flat, names):
        for (label, training), color in zip(several.items(), LINES):
            rows = [row for row in training.metrics if name in row]
            marker = "." if len(rows) < FEW else ""
            axis.plot(
                [row["step"] for row in rows], [row[name] for row in rows], marker, ls="-", color=color, label=label
            )
            for step, _ in training.changes:
                axis.axvline(step + 0.5, color=color, linestyle="--", linewidth=1)
        axis.set_title(name, loc="left")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(color="#e3e6ea")
        axis.spines[["top", "right"]].set_visible(False)
    if isinstance(trainings, Mapping):
        axes.flat[0].legend(frameon=False)
    return Picture(figure)


def calibration(model: Model, rankings: Sequence[Ranking]) -> Picture:
    """How often a reward model is right against how sure it is, of every pair of answers in the rankings."""
    shape = len(rankings), max(len(one.responses) for one in rankings)
    zeros = lambda dtype: np.zeros(shape, dtype)
    scores, ranks, valid = zeros(np.float32), zeros(np.float32), zeros(bool)
    for i, one in enumerate(rankings):
        k = len(one.responses)
        scores[i, :k] = score(model, [list(one.prompt)], list(one.responses))
        ranks[i, :k], valid[i, :k] = one.ranks, True
    arrays = [jnp.asarray(x) for x in (scores, ranks, valid)]
    bins, right = rl.calibration(*arrays), float(rl.ranking_accuracy(*arrays))
    sure, accuracy, count = (np.asarray(x) for x in (bins.confidence, bins.accuracy, bins.count))
    seen = count > 0
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot([0.5, 1], [0.5, 1], color="#8a929c", linestyle="--", label="as sure as right")
    axis.plot(sure[seen], accuracy[seen], color=LINES[0])
    axis.scatter(
        sure[seen], accuracy[seen], s=25 + 250 * count[seen] / count.max(), color=LINES[0], label="area: pairs"
    )
    axis.set(xlabel="its probability of the better answer", ylabel="how often it is right", ylim=(-0.05, 1.05))
    axis.set_title(f"right in {right:.0%} of {int(count.sum())} pairs", loc="left")
    axis.legend(frameon=False)
    return Picture(figure)
