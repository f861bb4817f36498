"""What people's ratings say of each row: means and win rates with intervals, and how far the raters agree."""

import importlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import paired
from icegrt_jax.evaluation.asked.wording import CRITERIA
from icegrt_jax.evaluation.raters import PREFERENCE, Rating

Estimates = dict[str, dict[str, Any]]
OVERALL = "mean"  # of the criteria that a rater has filled in


def means(ratings: Sequence[Rating], key: Mapping[str, Any]) -> dict[str, Estimates]:
    """{row: {criterion: mean, 95 % interval, prompts}}; of a prompt the mean over its answers and raters counts."""
    found: dict[str, Estimates] = {}
    for row in key["rows"]:
        values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for rating in ratings:
            answer = key["answers"][rating.id]
            for _ in range(sum(of == row for of, _ in answer["of"])):
                for name, score in _with_mean(rating.scores).items():
                    values[name][answer["prompt"]].append(score)
        found[row] = {name: _estimate(values[name].values()) for name in (*CRITERIA, OVERALL) if values[name]}
    return found


def win_rates(ratings: Sequence[Rating], key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each two rows, how often the first is preferred, ties half: a mean over a prompt's pairs first."""
    ranks: dict[tuple[int, str], dict[str, int]] = defaultdict(dict)  # of (prompt, rater) by answer
    for rating in ratings:
        if rating.preference is not None:
            ranks[key["answers"][rating.id]["prompt"], rating.rater][rating.id] = rating.preference
    found = []
    for ours, theirs in itertools.combinations(key["rows"], 2):
        wins: dict[int, list[float]] = defaultdict(list)
        for (prompt, _), by_answer in ranks.items():
            sides = [
                [rank for name, rank in by_answer.items() for of, _ in key["answers"][name]["of"] if of == row]
                for row in (ours, theirs)
            ]
            wins[prompt] += [float(a < b) + 0.5 * (a == b) for a, b in itertools.product(*sides)]
        judged = [own for own in wins.values() if own]
        if judged:
            found.append({"row": ours, "over": theirs, **_estimate(judged)})
    return found


def agreement(ratings: Sequence[Rating]) -> dict[str, dict[str, Any]]:
    """{column: Krippendorff's alpha of its ordinal values, and the answers that two raters or more have rated}.

    Krippendorff 2011, https://repository.upenn.edu/asc_papers/43: 1 is agreement, 0 what chance would give. None where
    nothing is compared, or all have said the same of everything.
    """
    try:
        alpha = importlib.import_module("krippendorff").alpha
    except ModuleNotFoundError as error:
        raise UserError(
            f'the agreement of raters needs {error.name}, which is not installed; pip install "icegrt_jax[people]".'
        ) from error
    raters, found = sorted({rating.rater for rating in ratings}), {}
    for name in (*CRITERIA, PREFERENCE):
        said: dict[str, dict[str, int]] = defaultdict(dict)
        for rating in ratings:
            value = rating.preference if name == PREFERENCE else rating.scores.get(name)
            if value is not None:
                said[rating.id][rating.rater] = value
        shared = [by for by in said.values() if len(by) > 1]
        table = np.array([[by.get(rater, np.nan) for by in shared] for rater in raters])
        spread = len(set(table[np.isfinite(table)])) > 1
        reached = float(alpha(reliability_data=table, level_of_measurement="ordinal")) if shared and spread else None
        found[name] = {"alpha": reached, "answers": len(shared)}
    return found


def _with_mean(scores: Mapping[str, int]) -> dict[str, float]:
    return {**scores, OVERALL: sum(scores.values()) / len(scores)} if scores else {}


def _estimate(of_prompts: Iterable[Sequence[float]]) -> dict[str, Any]:
    """Mean over prompts of the means in each, with its interval."""
    values = np.array([np.mean(own) for own in of_prompts])
    return {"value": float(values.mean()), "interval": list(paired.bootstrap([values])), "prompts": len(values)}
