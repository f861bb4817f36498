"""What of a run's config may change between two commands in one workdir: what nothing there has been shaped by."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

# Keys of earlier versions, with the value at which a run is as it is without them: it may go on.
GONE = {"ppo.bootstrap_truncated": False}
# Keys that earlier versions did not have, with the value at which a run is as it was: it may go on.
ADDED: dict[str, Any] = {
    "ppo.judges": {}, "evaluate.judges": {}, "ppo.rewards": {}, "ppo.reward_weights": {}, "ppo.reward_scales": {},
    "ppo.reward_timeout": 600.0, "ppo.reward_workers": 0, "ppo.reward_failed": "stop",
}  # fmt: skip


def used_by(parts: Mapping[str, Sequence[str]], workdir: pathlib.Path, key: str) -> list[pathlib.Path] | None:
    """The parts of a run in `workdir`, begun or finished, that a key of the config has shaped; None: all of it.

    A part counts as long as its folder is there: deleted, it begins anew, with other values if need be.

    Args:
      parts: in their order, and the keys that each is the first to read; of two that fit the first counts. All other
        keys shape everything. A part rests on those before it, so it is shaped by their keys as well.
    """
    names = list(parts)
    for i, part in enumerate(names):
        if any(key == read or key.startswith(f"{read}.") for read in parts[part]):
            return [path for later in names[i:] if (path := workdir / later).exists()]
    return None
