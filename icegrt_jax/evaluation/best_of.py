"""Whether choosing among answers by a reward model finds the good ones: best-of-n, exactly, without sampling.

Of K answers to a prompt whose quality is known, n are drawn without replacement, and the one with the highest score is
taken. The expected quality of what is taken, over all draws, is a sum over the answers in the order of their scores.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from icegrt_jax.evaluation.intervals import bootstrap
from icegrt_jax.evaluation.rankings import Estimate, Scored


@dataclasses.dataclass(frozen=True)
class BestOf:
    """Of n answers, means over the prompts that have as many: quality of the one taken, of a random and the best one.

    gain: what taking gains over a random one, as a share of what the best would gain.
    """

    n: int
    taken: Estimate
    random: float
    best: float
    gain: Estimate | None

    def to_json(self) -> dict:
        gain = {} if self.gain is None else {"gain": self.gain.to_json()}
        return {"n": self.n, "taken": self.taken.to_json(), "random": self.random, "best": self.best, **gain}


def quality_of_ranks(scored: Scored) -> np.ndarray:
    """f64[B, K] in [0, 1]: the share of a prompt's other answers that one is better than, ties counting half."""
    both = scored.valid[:, :, None] & scored.valid[:, None, :]
    ranks = scored.ranks
    better = (ranks[:, :, None] < ranks[:, None, :]) + 0.5 * (ranks[:, :, None] == ranks[:, None, :])
    others = np.where(both, better, 0.0).sum(axis=2) - 0.5  # itself is half better than itself
    return np.where(scored.valid, others / np.maximum(scored.valid.sum(axis=1, keepdims=True) - 1, 1), 0.0)


def expected_quality(scores: np.ndarray, quality: np.ndarray, n: int) -> float:
    """Of the one with the highest score among n answers drawn from K; f64[K] each. Equal scores: any one of them."""
    count = len(scores)
    order = np.argsort(-scores, kind="stable")
    total = math.comb(count, n)
    # The answer at place i is taken where it is drawn and none before it is.
    chances = np.array([math.comb(count - 1 - place, n - 1) / total for place in range(count)])
    means = {score: quality[scores == score].mean() for score in np.unique(scores)}
    return float(sum(chance * means[score] for chance, score in zip(chances, scores[order], strict=True)))


def best_of(scored: Scored, quality: np.ndarray) -> list[BestOf]:
    """For each of `sizes`, over the prompts with at least so many answers.

    Args:
      quality: f64[B, K], higher is better, comparable among the answers to one prompt.
    """
    counts = scored.valid.sum(axis=1)
    found = []
    for n in sizes(counts):
        rows = np.flatnonzero(counts >= n)
        each = np.array([_one(scored.scores[i], quality[i], scored.valid[i], n) for i in rows])  # [N, 3]
        taken = Estimate(*bootstrap(each, lambda sums: sums[..., 0], mean=True), len(rows), float(each[:, 0].var()))
        possible = float((each[:, 2] - each[:, 1]).sum())
        gain = Estimate(*bootstrap(each, _gain), len(rows), 0.0) if possible > 1e-9 else None
        found.append(BestOf(n, taken, float(each[:, 1].mean()), float(each[:, 2].mean()), gain))
    return found


def sizes(counts: np.ndarray) -> list[int]:
    """Powers of two from 2, as far as half of the prompts have so many answers, and what half of them have."""
    most = int(np.median(counts))
    powers = [2**i for i in range(1, most.bit_length()) if 2**i < most]
    return [*powers, most] if most >= 2 else []


def _one(scores: np.ndarray, quality: np.ndarray, valid: np.ndarray, n: int) -> Sequence[float]:
    own = quality[valid]
    return expected_quality(scores[valid], own, n), own.mean(), expected_quality(own, own, n)


def _gain(sums: np.ndarray) -> np.ndarray:
    possible = sums[..., 2] - sums[..., 1]
    return np.divide(sums[..., 0] - sums[..., 1], possible, out=np.zeros_like(possible), where=possible > 0.0)
