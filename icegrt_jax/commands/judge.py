"""`icegrt judge`: which of two policies answers better, by a language model asked in both orders."""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from icegrt_jax import files
from icegrt_jax.config import convert
from icegrt_jax.config.judge_model import check_judge_model
from icegrt_jax.config.options import JudgeModelOptions
from icegrt_jax.data.records import Prompt
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import paired, sampled
from icegrt_jax.evaluation.asked import compare, wording
from icegrt_jax.evaluation.asked.compare import Outcome
from icegrt_jax.evaluation.asked.panel import Panel, Unjudged
from icegrt_jax.evaluation.judges import mean_grades
from icegrt_jax.evaluation.table import aligned
from icegrt_jax.runs import judge_model

TITLES = {"wins": "wins", "ties": "ties", "losses": "losses", "win_rate": "wins and half the ties",
          "wins_less_losses": "wins less losses"}  # fmt: skip


def main(
    *, ours: str, theirs: str, out: str, limit: int, criteria: bool, unjudged: float, **keys: Any
) -> None:  # fmt: skip
    """Prints wins, ties and losses of `ours` against `theirs`, and writes them with every verdict.

    Args:
      ours, theirs: answers, see `evaluation.sampled`.
      out: a .json file; "" for none.
      limit: prompts; 0: all that both have answered.
      criteria: grade each answer by the eight criteria as well.
      unjudged: share of the pairs, and of the answers, that may be left without a verdict.
      keys: of `JudgeModelOptions`.
    """
    if out and (not out.endswith(".json") or pathlib.Path(out).is_dir()):
        raise UserError(f"--out={out}: expected the name of a file that ends in .json.")
    section = convert.checked(JudgeModelOptions(**keys), "judge")
    if not section.model:
        raise UserError("--model is empty; name a model of an endpoint, or a folder.")
    check_judge_model("--", section, "")
    rows = [sampled.read("--ours", ours), sampled.read("--theirs", theirs)]
    both = sampled.common(rows[0], rows[1], limit)
    # The k-th answer of one with the k-th of the other.
    pairs = [(i, one) for i, said in enumerate(both) for one in zip(*(row.answers[said] for row in rows))]
    prompts = [rows[0].prompts[both[i]] for i, _ in pairs]
    texts = [[answers[side] for _, answers in pairs] for side in (0, 1)]
    panel = judge_model.panel(section)
    outcomes = compare.compare(panel, prompts, *texts)
    whys = [outcome.why if outcome.result is None else None for outcome in outcomes]
    _check_judged(whys, unjudged, section.model, "pairs")
    places = [i for i, _ in pairs]
    found = compare.summary(outcomes, places)
    results = {
        "ours": ours, "theirs": theirs, "judge": dict(panel.asker.identity), "prompts": len(both), "pairs": len(pairs),
        "unjudged": sum(outcome.result is None for outcome in outcomes), "numbers": found,
        "order": compare.order(outcomes),
        **({"criteria": _criteria(panel, prompts, texts, places, unjudged)} if criteria else {}),
        "verdicts": [_told(*one) for one in zip(prompts, places, *texts, outcomes, strict=True)],
    }  # fmt: skip
    _show(results)
    print(f"{panel.asked} questions asked, {panel.known} answered before")
    if out:
        files.write_json_atomic(out, results)
        print(f"written to {out}")


def _check_judged(whys: Sequence[str | None], allowed: float, model: str, what: str) -> None:
    """Refuses more of them than are allowed to be without a verdict; of each why there is none."""
    left = [why for why in whys if why is not None]
    if left and (len(left) == len(whys) or len(left) > allowed * len(whys)):
        raise UserError(
            f"{len(left)} of {len(whys)} {what} have no verdict, the first because the judge {model} {left[0]}; "
            "the others are kept. --unjudged=0.05 lets so large a share be left out."
        )


def _criteria(
    panel: Panel, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], places: Sequence[int], unjudged: float
) -> dict[str, Any]:
    """Means of each criterion of both, from 0 to 1, and their difference with its interval over the prompts."""
    verdicts = panel.verdicts([wording.to_score(*one) for side in texts for one in zip(prompts, side, strict=True)])
    whys = [verdict.why if isinstance(verdict, Unjudged) else None for verdict in verdicts]
    _check_judged(whys, unjudged, panel.name, "answers")
    of_each: list[dict[int, list[dict[str, float]]]] = [collections.defaultdict(list), collections.defaultdict(list)]
    for at, verdict in enumerate(verdicts):
        grades = {} if isinstance(verdict, Unjudged) else wording.as_grades(verdict)
        of_each[at // len(prompts)][places[at % len(prompts)]].append(grades)
    found = {}
    for name in (*wording.CRITERIA, "gold"):
        ours, theirs = (paired.column([mean_grades(own) for own in side.values()], name) for side in of_each)
        mean, low, high, _ = paired.difference(ours, theirs)
        found[name] = {
            "ours": float(np.nanmean(ours)), "theirs": float(np.nanmean(theirs)), "difference": mean,
            "interval": [low, high],
        }  # fmt: skip
    return found


def _told(prompt: Prompt, place: int, ours: str, theirs: str, outcome: Outcome) -> dict[str, Any]:
    result = {compare.WIN: "win", compare.EVEN: "tie", compare.LOSS: "loss", None: "unjudged"}[outcome.result]
    return {
        "place": place, "prompt": prompt.prompt[-1]["content"], "ours": ours, "theirs": theirs, "result": result,
        "in_both_orders": list(outcome.verdicts), **({"why": outcome.why} if outcome.why else {}),
    }  # fmt: skip


def _show(results: dict[str, Any]) -> None:
    percent = lambda x: f"{100 * x:.1f}"
    lines = [[f"{results['ours']} against {results['theirs']}", "per cent", "95 %"]]
    for name, title in TITLES.items():
        found = results["numbers"][name]
        lines.append([f"  {title}", percent(found["value"]), f"[{', '.join(map(percent, found['interval']))}]"])
    print(aligned(lines))
    if order := results["order"]:
        alike, first = percent(order["alike_in_both_orders"]), percent(order["for_the_first"])
        print(f"in both orders the same verdict: {alike} %; of its choices {first} % were for what stood first")
    if left := results["unjudged"]:
        print(f"{left} of {results['pairs']} pairs have no verdict and count for nothing")
    if by := results.get("criteria"):
        lines = [["by criterion, 0 to 1", "ours", "theirs", "difference", "95 %"]]
        for name, one in by.items():
            bounds = ", ".join(f"{x:+.3f}" for x in one["interval"])
            lines.append([f"  {name}", f"{one['ours']:.3f}", f"{one['theirs']:.3f}", f"{one['difference']:+.3f}",
                          f"[{bounds}]"])  # fmt: skip
        print(aligned(lines))
    print(f"over {results['prompts']} prompts, {results['pairs']} pairs; intervals by bootstrap over the prompts")
