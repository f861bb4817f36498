"""How right a reward model is on rankings, how much it goes by length, and how far to trust its confidence.

Pairs are those of `rl.ranking`: two answers to a prompt that are ranked apart and do not read the same to the model. A
pair counts as right where the better answer has the strictly higher score. Shares are means over the pairs of a prompt
first and over prompts then, as the reward stage's accuracy is; their intervals are over prompts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from icegrt_jax.evaluation.intervals import bootstrap, interval
from icegrt_jax.rl import Calibration, calibration


@dataclasses.dataclass(frozen=True)
class Scored:
    """Rankings and what a reward model makes of their answers, a row for each prompt.

    Attributes:
      scores: f64[B, K]. ranks: f64[B, K], lower is better.
      valid: bool[B, K], False where a prompt has fewer than K answers.
      lengths: i64[B, K], tokens of each answer.
      same: bool[B, K, K], True where two answers are the same tokens.
      meta: of each record.
    """

    scores: np.ndarray
    ranks: np.ndarray
    valid: np.ndarray
    lengths: np.ndarray
    same: np.ndarray
    meta: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Sequence[int]) -> "Scored":
        """Those of some prompts."""
        at = list(rows)
        arrays = {name: getattr(self, name)[at] for name in ("scores", "ranks", "valid", "lengths", "same")}
        return Scored(**arrays, meta=[self.meta[i] for i in at])

    @property
    def pairs(self) -> np.ndarray:
        """bool[B, K, K], True at [b, i, j] where answer i is ranked better than answer j and reads otherwise."""
        return _both(self.valid) & (self.ranks[:, :, None] < self.ranks[:, None, :]) & ~self.same

    @property
    def margins(self) -> np.ndarray:
        """f64[B, K, K], the score of answer i less that of answer j."""
        return self.scores[:, :, None] - self.scores[:, None, :]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over prompts.

    Attributes:
      count: the prompts that have it.
      variance: of one of them, where the number is their mean.
    """

    value: float
    low: float
    high: float
    count: int
    variance: float

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high, "prompts": self.count}


Numbers = dict[str, Estimate]


def measure(scored: Scored) -> Numbers:
    """Of one source; a number that no prompt has is not there.

    accuracy: pairs in the right order. best: prompts whose highest score is a best answer's; where several answers
    share it, the share of best ones among them. better_is_longer, better_is_shorter: the accuracy of such pairs.
    prefers_longer, longer_is_better: pairs of different lengths whose longer answer has the higher score, and is ranked
    better. length_correlation: of score and length within a prompt. calibration_error: see `rl.calibration`.
    hard, normal, easy: pairs whose better answer is of a plainer, the same and a fancier style.
    """
    pairs, right = scored.pairs, scored.margins > 0.0
    longer = scored.lengths[:, :, None] > scored.lengths[:, None, :]
    shorter = scored.lengths[:, :, None] < scored.lengths[:, None, :]
    uneven = pairs & (longer | shorter)
    shares = {
        "accuracy": (right, pairs),
        "better_is_longer": (right, pairs & longer),
        "better_is_shorter": (right, pairs & shorter),
        # The longer of a pair is the better or the worse one; where scores are equal neither is preferred.
        "prefers_longer": (np.where(longer, right, scored.margins < 0.0), uneven),
        "longer_is_better": (longer, uneven),
        **{name: (right, where) for name, where in _by_style(scored, pairs).items()},
    }
    found = {name: mean(_over_pairs(*given)) for name, given in shares.items() if given[1].any()}
    if pairs.any():
        found["best"] = mean(_best(scored)[np.any(pairs, axis=(1, 2))])
        found["calibration_error"] = _calibration_error(scored)
    if (correlation := _length_correlation(scored)) is not None:
        found["length_correlation"] = correlation
    return found


def reliability(scored: Scored) -> dict[str, list[float]]:
    """The bins of `rl.calibration`, for a plot."""
    count, confidence, accuracy = (x.sum(axis=0) for x in _bins(scored))
    held = np.maximum(count, 1.0)
    return {"confidence": (confidence / held).tolist(), "accuracy": (accuracy / held).tolist(), "count": count.tolist()}


def mean(values: np.ndarray) -> Estimate:
    """Of one number in [0, 1] for each prompt."""
    low, high = interval(values.mean(), values.var(), len(values))
    return Estimate(float(values.mean()), low, high, len(values), float(values.var()))


def mean_of_parts(parts: Sequence[Numbers]) -> Numbers:
    """The mean over the parts of a benchmark, each weighing the same, of the numbers that all of them have."""
    found = {}
    for name in parts[0]:
        if name == "length_correlation" or not all(name in part for part in parts):
            continue  # not a number in [0, 1]
        each = [part[name] for part in parts]
        value, count = float(np.mean([one.value for one in each])), sum(one.count for one in each)
        variance = sum(one.variance / one.count for one in each) / len(each) ** 2 * count
        found[name] = Estimate(value, *interval(value, variance, count), count, variance)
    return found


def _both(valid: np.ndarray) -> np.ndarray:
    return valid[:, :, None] & valid[:, None, :]


def _over_pairs(right: np.ndarray, where: np.ndarray) -> np.ndarray:
    """f64[N], the share of right ones among the pairs of each prompt that has any."""
    count = where.sum(axis=(1, 2))
    return (right & where).sum(axis=(1, 2))[count > 0] / count[count > 0]


def _best(scored: Scored) -> np.ndarray:
    """f64[B], of the answers that share the highest score, the share of those with the best rank."""
    top = scored.valid & (scored.scores == np.where(scored.valid, scored.scores, -np.inf).max(axis=1, keepdims=True))
    first = scored.ranks == np.where(scored.valid, scored.ranks, np.inf).min(axis=1, keepdims=True)
    return (top & first).sum(axis=1) / top.sum(axis=1)


def _by_style(scored: Scored, pairs: np.ndarray) -> dict[str, np.ndarray]:
    """The pairs of each kind, where records say the styles of their answers (`data.reward_benchmarks`)."""
    styles: np.ndarray = np.full(scored.scores.shape, np.nan)
    for row, meta in enumerate(scored.meta):
        if "styles" in meta:
            styles[row, : len(meta["styles"])] = meta["styles"]
    difference = styles[:, :, None] - styles[:, None, :]
    return {"hard": pairs & (difference < 0), "normal": pairs & (difference == 0), "easy": pairs & (difference > 0)}


def _length_correlation(scored: Scored) -> Estimate | None:
    """Pearson's, of what scores and lengths differ from the mean of their prompt; None where they do not."""
    valid = scored.valid
    count = np.maximum(valid.sum(axis=1, keepdims=True), 1)
    centred = [
        np.where(valid, x - np.where(valid, x, 0.0).sum(axis=1, keepdims=True) / count, 0.0)
        for x in (scored.scores, scored.lengths.astype(np.float64))
    ]
    score, length = centred
    sums = np.stack([(score * length).sum(axis=1), (score**2).sum(axis=1), (length**2).sum(axis=1)], axis=1)
    if not (sums[:, 1].any() and sums[:, 2].any()):
        return None

    def correlation(sums: np.ndarray) -> np.ndarray:
        spread = np.sqrt(sums[..., 1] * sums[..., 2])
        return np.divide(sums[..., 0], spread, out=np.zeros_like(spread), where=spread > 0.0)

    return Estimate(*bootstrap(sums, correlation), len(scored), 0.0)


def _bins(scored: Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """f64[B, bins] each: the pairs of every prompt in each bin, and the sums of their confidence and their accuracy."""
    scores: np.ndarray = scored.scores.astype(np.float32)
    ranks: np.ndarray = scored.ranks.astype(np.float32)
    found = jax.device_get(_calibration_of_each(scores, ranks, scored.valid, scored.same))
    count = found.count.astype(np.float64)
    return count, count * found.confidence, count * found.accuracy


@jax.jit
@jax.vmap
def _calibration_of_each(scores, ranks, valid, same) -> Calibration:
    return calibration(scores[None], ranks[None], valid[None], same=same[None])


def _calibration_error(scored: Scored) -> Estimate:
    count, confidence, accuracy = _bins(scored)
    sums = np.stack([count, confidence, accuracy], axis=1)  # [B, 3, bins]

    def error(sums: np.ndarray) -> np.ndarray:
        return np.abs(sums[..., 2, :] - sums[..., 1, :]).sum(axis=-1) / np.maximum(sums[..., 0, :].sum(axis=-1), 1.0)

    # Noise only adds to it, so what is drawn again lies above what was drawn as that lies above the truth.
    value, low, high = bootstrap(sums, error, pivotal=True)
    prompts = int((count.sum(axis=1) > 0).sum())
    return Estimate(value, max(low, 0.0), min(max(high, 0.0), 1.0), prompts, 0.0)
