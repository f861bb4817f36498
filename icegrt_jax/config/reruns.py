"""What of a run's config may change between two commands in one workdir: what nothing there has been shaped by."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from icegrt_jax.config.file import is_under

# Keys of earlier versions, with the value at which a run is as it is without them: it may go on.
GONE = {"ppo.bootstrap_truncated": False}
# Keys that earlier versions did not have, with the value at which a run is as it was: it may go on.
ADDED: dict[str, Any] = {
    "ppo.judges": {}, "evaluate.judges": {}, "ppo.rewards": {}, "ppo.reward_weights": {}, "ppo.reward_scales": {},
    "ppo.reward_timeout": 600.0, "ppo.reward_workers": 0, "ppo.reward_failed": "stop",
    "log.writers": (), "log.skipped": 3, "log.followed": 4, "log.browsed": 64, "log.report_minutes": 2.0,
    "evaluate.samples": 1, "evaluate.temperatures": (), "evaluate.temperature_prompts": {},
    "evaluate.temperature_limit": 0, "evaluate.reward_model": "",
    "reward.share_prefixes": True,  # to rounding
    "reward.lm_coef": 0.0, "ppo.ema": 0.0, "ppo.average": (), "ppo.average_by": "heldout/gold", "rounds": 1,
    **{
        f"annotation.{name}": value
        for name, value in (
            ("by", "domain"), ("prompts", ""), ("limit", 0), ("policy_k", 4), ("instruct_k", 4), ("weight", 1.0),
            ("start", "instruct"),
        )
    },
    **{
        f"{group}.judge_model.{name}": value
        for group in ("annotation", "evaluate")
        for name, value in (
            ("model", ""), ("url", ""), ("key_env", ""), ("at_once", 4), ("timeout", 120.0), ("retries", 4),
            ("max_tokens", 1024), ("cache", "~/.cache/icegrt_jax/judge"),
        )
    },
    "ppo.estimator": "gae", "ppo.loss_aggregation": "own", "ppo.filter_groups": False, "ppo.filter_overlong": False,
    "ppo.entropy_coef": 0.0, "ppo.lam_alpha": 0.0, "ppo.value_lam": -1.0, "ppo.value_flat": 0, "ppo.redraw": 0,
    **{
        f"ppo.alarms.{name}": value
        for name, value in (
            ("off", ()), ("stop", ()), ("window", 8), ("errors", 3.0), ("gold_fall", 0.1), ("length_growth", 2.0),
            ("length_left", 0.5), ("perplexity_left", 0.5), ("kl_below", 0.1), ("kl_above", 50.0),
            ("explained_variance", 0.0), ("entropy_left", 0.25), ("eos_rate", 0.8), ("reward_every", 0),
            ("reward_k", 4), ("reward_left", 0.5), ("ensemble_growth", 2.0),
        )
    },
    "ppo.kl.reference_temperature": 0.0, "ppo.score.baseline": "none", "ppo.score.shape": "none",
    "reward.ensemble": 1, "reward.ensemble_with": (), "reward.ensemble_as": "scores",
    "ppo.score.ensemble": "mean", "ppo.score.ensemble_coef": 0.1,
    "ppo.score.by_source": False,
    **{f"{stage}.heldout": {} for stage in ("pretrain", "sft", "ppo")},
    **{f"{stage}.heldout_limit": 0 for stage in ("pretrain", "sft", "ppo")},
    **{
        f"{stage}.{name}": value
        for stage in ("pretrain", "sft", "reward", "ppo")
        for name, value in (("heldout_every", 0), ("best", ""), ("patience", 0), ("use", "last"))
    },
}  # fmt: skip


TIMES = "times.jsonl"  # of a stage: when it was worked on
REPEATED = ("reward", "ppo")  # the first and the last part of a round


def first_part(parts: Mapping[str, Sequence[str]], key: str) -> str | None:
    """The part of a run that is the first to read a key of the config; None: the key shapes everything.

    Args:
      parts: in their order, and the keys that each is the first to read; of two that fit the first counts.
    """
    return next((part for part, keys in parts.items() if is_under(key, keys)), None)


def used_by(parts: Mapping[str, Sequence[str]], workdir: pathlib.Path, key: str) -> list[pathlib.Path] | None:
    """The parts of a run in `workdir`, begun or finished, that a key of the config has shaped; None: all of it.

    A part counts as long as its folder is there: deleted, it begins anew, with other values if need be. One that is
    taken from another run counts as well, and one of an earlier round. A part rests on those before it, so it is shaped
    by their keys as well.

    Args:
      parts: see `first_part`.
    """
    first, names = first_part(parts, key), list(parts)
    if first is None:
        return None
    later = names[names.index(first) :]
    if rounds := _of_rounds(workdir, names, later):
        later = [name for name in names if name in (*later, *REPEATED)]
    return [*(path for name in later if _there(path := workdir / name)), *rounds]


def _of_rounds(workdir: pathlib.Path, names: Sequence[str], later: Sequence[str]) -> list[pathlib.Path]:
    """What is there of earlier rounds that these parts are or that rests on them: the rounds after it, rankings."""
    parts = [path for path in sorted(workdir.glob("rounds/*/*")) if path.name in names and not path.is_symlink()]
    found = [path for path in parts if path.name in later or path.parent.name != "1"]
    return [*found, *sorted(workdir.glob("data/*_round*.jsonl"))] if found else []


def _there(path: pathlib.Path) -> bool:
    """Whether something has been made there; when a stage was begun is all that one killed at once leaves."""
    return path.is_symlink() or (path.exists() and not is_bare(path))


def is_bare(folder: pathlib.Path) -> bool:
    """Whether nothing is in a folder but the times at which it was worked on."""
    return folder.is_dir() and os.listdir(folder) == [TIMES]
