"""Two policies' answers to the same prompts, compared by a judge in both orders, with intervals over the prompts.

A judge may like what stands first (Zheng et al. 2023, https://arxiv.org/abs/2306.05685, section 3.4). An answer wins
where it is the better one in both orders; all else is a tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icegrt_jax.data.records import Prompt
from icegrt_jax.evaluation import paired
from icegrt_jax.evaluation.asked import wording
from icegrt_jax.evaluation.asked.panel import Panel, Unjudged

WIN, EVEN, LOSS = 1, 0, -1


@dataclass(frozen=True)
class Outcome:
    """Of one pair of answers.

    Attributes:
      result: WIN where ours is better; None where the judge gave no verdict.
      verdicts: with ours first, and with ours second; empty where both answers are the same text.
      why: there is no verdict.
    """

    result: int | None
    verdicts: tuple[str, ...] = ()
    why: str = ""


def compare(panel: Panel, records: Sequence[Prompt], ours: Sequence[str], theirs: Sequence[str]) -> list[Outcome]:
    """An outcome of each pair."""
    different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a.strip() != b.strip()]
    questions = [wording.to_compare(records[i], ours[i], theirs[i]) for i in different]
    questions += [wording.to_compare(records[i], theirs[i], ours[i]) for i in different]
    found = panel.verdicts(questions)
    outcomes = [Outcome(EVEN)] * len(records)
    for at, i in enumerate(different):
        outcomes[i] = _outcome(found[at], found[len(different) + at])
    return outcomes


def _outcome(forward: str | Unjudged, backward: str | Unjudged) -> Outcome:
    for one in (forward, backward):
        if isinstance(one, Unjudged):
            return Outcome(None, why=one.why)
    verdicts = (str(forward), str(backward))
    results = {(wording.FIRST, wording.SECOND): WIN, (wording.SECOND, wording.FIRST): LOSS}
    return Outcome(results.get(verdicts, EVEN), verdicts)


def summary(outcomes: Sequence[Outcome], prompts: Sequence[int]) -> dict[str, dict[str, float | list[float]]]:
    """{number: its value and 95 % interval} over the prompts; each outcome's prompt is its place among them."""
    judged = [(o, p) for o, p in zip(outcomes, prompts, strict=True) if o.result is not None]
    of = np.array([prompt for _, prompt in judged])
    results = np.array([float(outcome.result or 0) for outcome, _ in judged])
    columns = {
        "wins": results == WIN, "ties": results == EVEN, "losses": results == LOSS,
        "win_rate": (results + 1) / 2, "wins_less_losses": results,
    }  # fmt: skip
    found: dict[str, dict[str, float | list[float]]] = {}
    for name, values in columns.items():
        means = np.array([values[of == prompt].mean() for prompt in np.unique(of)])
        found[name] = {"value": float(means.mean()), "interval": list(paired.bootstrap([means]))}
    return found


def order(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """How far the order decides: pairs judged alike in both orders, and verdicts for what stood first, as shares."""
    asked = [outcome.verdicts for outcome in outcomes if outcome.verdicts]
    if not asked:
        return {}
    swapped = {wording.FIRST: wording.SECOND, wording.SECOND: wording.FIRST, wording.TIE: wording.TIE}
    alike = sum(forward == swapped[backward] for forward, backward in asked)
    said = [verdict for verdicts in asked for verdict in verdicts if verdict != wording.TIE]
    first = sum(verdict == wording.FIRST for verdict in said) / len(said) if said else 0.5
    return {"alike_in_both_orders": alike / len(asked), "for_the_first": first}
