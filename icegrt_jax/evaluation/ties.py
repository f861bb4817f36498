"""The score of RewardBench 2's part Ties, where several answers are right: https://arxiv.org/abs/2506.01937.

Every question is asked twice: `ref:N` has one right answer, `tied:N` several. A good reward model puts every right
answer above every wrong one, and the right ones closer to each other than to the wrong ones. As the authors' program
counts (rewardbench/utils.py of allenai/reward-bench): 0.3 of the accuracy on each, and 0.2 of each share of questions
whose right answers spread less than they lie above the wrong ones, with the tied answers alone and with both; a
hundredth of the mean tanh of that margin breaks ties.
"""

import numpy as np

from icegrt_jax.evaluation.intervals import bootstrap
from icegrt_jax.evaluation.rankings import Estimate, Scored

SUBSET = "ties"  # in small letters


def ties_score(scored: Scored) -> Estimate | None:
    """None where the ids of the records do not say which questions belong together."""
    asked: dict[str, dict[str, np.ndarray]] = {"ref": {}, "tied": {}}
    for row, meta in enumerate(scored.meta):
        kind, _, number = str(meta.get("id", "")).partition(":")
        if kind in asked and number:
            asked[kind][number] = _margins(scored, row)
    both = [number for number in asked["ref"] if number in asked["tied"]]
    if not both:
        return None
    margins = np.array([[*asked["ref"][number], *asked["tied"][number]] for number in both])  # [N, 4]
    terms = np.stack(_terms(margins), axis=1)
    return Estimate(*bootstrap(terms, lambda x: x @ WEIGHTS, mean=True), len(both), float((terms @ WEIGHTS).var()))


WEIGHTS = np.array([0.3, 0.3, 0.2, 0.2, 0.01])


def _margins(scored: Scored, row: int) -> np.ndarray:
    """How far the worst right answer lies above the best wrong one, and how far the right ones spread."""
    scores, right = scored.scores[row], scored.ranks[row] == scored.ranks[row][scored.valid[row]].min()
    right, wrong = scores[right & scored.valid[row]], scores[~right & scored.valid[row]]
    return np.array([right.min() - (wrong.max() if len(wrong) else -np.inf), right.max() - right.min()])


def _terms(margins: np.ndarray) -> list[np.ndarray]:
    """f64[N] each, in the order of `WEIGHTS`."""
    ref, tied, spread = margins[:, 0], margins[:, 2], margins[:, 3]
    least = np.minimum(ref, tied)
    with np.errstate(divide="ignore", invalid="ignore"):
        close = np.nan_to_num(np.tanh(least / spread - 1), nan=0.0)
    return [(tied > 0).astype(float), (ref > 0).astype(float), (tied > spread).astype(float),
            (least > spread).astype(float), close]  # fmt: skip
