"""Names of metrics in words, and numbers as they are read."""

import math
from collections.abc import Mapping

from icegrt_jax.evaluation.table import COLUMNS, NAMES

# Of the tables, beside the columns that `icegrt evaluate` prints.
TITLES = {
    **dict(COLUMNS),
    "length": "tokens of an answer",
    "temperature": "best temperature",
    "heldout_reward": "held-out reward model",
    "heldout_reward_greedy": "held-out reward model (greedy)",
    "heldout_reward_best": "held-out reward model (at its best)",
    "heldout_wins_best": "preferred (at its best)",
}
# Of curves where a panel has several.
CURVES = {
    "loss": "training", "accuracy": "training", "margin": "training", "clip_frac": "policy",
    "value_clip_frac": "critic", "grad_norm": "policy", "policy_grad_norm": "policy", "value_grad_norm": "critic",
    "ratio": "mean",
    "ratio_max": "largest", "ratio_min": "smallest", "heldout/gold": "sampled", "heldout/gold_greedy": "greedy",
    "group_flat": "prompts without a signal", "kept": "responses learned from", "rollouts": "rollouts",
    "redrawn": "prompts drawn anew", "gold": "rollouts",
}  # fmt: skip
GROUPS = {"greedy": "greedy", "best": "at its best"}
# Of numbers that are no share of anything.
PLAIN = ("length", "temperature", "heldout_reward", "n")


def title_of(metric: str, given: Mapping[str, str]) -> str:
    """A column's title: what the judges call it (`given`), else ours, else its name in plain letters."""
    titles = {**TITLES, **given}
    if metric in titles:
        return titles[metric]
    group, _, name = metric.partition("/")
    if group == "general":
        return f"task: {plain(name)}"
    if group == "gold":
        return f"gold: {plain(name)} prompts"
    if group in GROUPS:
        return f"{titles.get(name, plain(name))} ({GROUPS[group]})"
    return plain(metric)


def curve_of(metric: str) -> str:
    """What a line is called in the legend of its panel."""
    if metric in CURVES:
        return CURVES[metric]
    group, _, name = metric.partition("/")
    if group in ("heldout", "val"):
        return f"held out: {plain(name)}" if name not in ("loss", "accuracy", "margin") else "held out"
    if group == "optimizer":
        return {"lr": "learning rate"}.get(name, plain(name.removesuffix("_lr")))
    if group == "time":
        return plain(name.removesuffix("_s"))
    return plain(name or metric)


def plain(name: str) -> str:
    """A name without its underscores and slashes."""
    return name.replace("/", ": ").replace("_", " ")


def is_share(metric: str) -> bool:
    """Whether a column of the table is between 0 and 1, which is read in per cent."""
    return not (metric in PLAIN or metric.rpartition("/")[2] in PLAIN or metric.startswith("heldout_reward"))


def number(value: float | None, *, share: bool) -> str:
    """A number of a table."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f} %" if share else f"{value:.2f}".rstrip("0").rstrip(".")


def interval(bounds: list[float] | None, *, share: bool) -> str:
    """Its interval, "" where there is none."""
    if not bounds:
        return ""
    low, high = bounds
    return f"[{100 * low:.1f}, {100 * high:.1f}]" if share else f"[{low:.2f}, {high:.2f}]"


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3 min 7 s or 2 h 3 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def groups(counts: Mapping[str, int]) -> str:
    """How many prompts there are of each group."""
    return " and ".join(f"{count} {NAMES.get(group, group)}" for group, count in counts.items() if count)
