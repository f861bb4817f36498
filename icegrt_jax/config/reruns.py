"""What of a run's config may change between two commands in one workdir: what nothing there has been shaped by."""

import pathlib
from typing import Any

# The parts of a run in their order, and the keys that each is the first to read; of two that fit the first counts.
# All other keys shape everything. A part rests on those before it, so it is shaped by their keys as well.
FIRST_READ = {
    "pretrain": ("pretrain",),
    "sft": ("sft",),
    "data/own_rankings.jsonl": ("reward.on_policy_k", "ppo.temperature", "ppo.top_k", "ppo.top_p", "ppo.min_p"),
    "reward": ("reward", "ppo.sources", "evaluate.batch_size"),
    "ppo": ("ppo", "value", "roles"),
    "evaluate": ("evaluate",),
}
# Keys of earlier versions, with the value at which a run is as it is without them: it may go on.
GONE = {"ppo.bootstrap_truncated": False}
# Keys that earlier versions did not have, with the value at which a run is as it was: it may go on.
ADDED: dict[str, Any] = {
    "ppo.judges": {}, "evaluate.judges": {}, "ppo.rewards": {}, "ppo.reward_weights": {}, "ppo.reward_scales": {},
    "ppo.reward_timeout": 600.0, "ppo.reward_workers": 0, "ppo.reward_failed": "stop",
}  # fmt: skip


def used_by(workdir: pathlib.Path, key: str) -> list[pathlib.Path] | None:
    """The parts of a run in `workdir`, begun or finished, that a key of the config has shaped; None: all of it.

    A part counts as long as its folder is there: deleted, it begins anew, with other values if need be.
    """
    parts = list(FIRST_READ)
    for i, part in enumerate(parts):
        if any(key == read or key.startswith(f"{read}.") for read in FIRST_READ[part]):
            return [path for later in parts[i:] if (path := workdir / later).exists()]
    return None
