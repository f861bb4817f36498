"""How often scores order two answers to one prompt as a judge does."""

from collections.abc import Sequence

import numpy as np

from icegrt_jax.evaluation.intervals import interval


def pair_accuracy(
    scores: Sequence[float] | np.ndarray, gold: Sequence[float], prompts: Sequence[int]
) -> tuple[float, float, float, int] | None:
    """Accuracy, its 95 % interval over prompts and the number of pairs; None where there is no pair.

    A mean over the pairs of a prompt first and over prompts then, as the reward stage's accuracy is. Pairs that the
    judge finds equal are left out; of the others the better answer must have the strictly higher score.

    Args:
      scores, gold: f[N], of each answer.
      prompts: i[N], which one it answers.
    """
    shares, pairs = [], 0
    for prompt in np.unique(prompts):
        own = np.asarray(prompts) == prompt
        score, grade = (np.asarray(values, float)[own] for values in (scores, gold))
        better = grade[:, None] > grade
        if better.any():
            shares.append(float(np.mean((score[:, None] > score)[better])))
            pairs += int(better.sum())
    if not shares:
        return None
    accuracy = float(np.mean(shares))
    return accuracy, *interval(accuracy, float(np.var(shares)), len(shares)), pairs
