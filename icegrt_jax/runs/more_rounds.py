"""A run that has finished its last round and is to have more: that one gets a folder of its own, and the run goes on.

Imports no jax: it is moved before a program begins.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from icegrt_jax.config.file import is_under
from icegrt_jax.config.reruns import REPEATED
from icegrt_jax.runs.again import Again, Changes, Part, set_aside


def find(found: Again, parts: Sequence[Part], workdir: pathlib.Path, changes: Changes, rounds: int) -> Again:
    """What is done again with more rounds, beside what has been found; other changes are for others to refuse.

    Args:
      rounds: of the config now.
    """
    old, new = changes.get("rounds", (rounds, rounds))
    if old == 1 or not (any(workdir.glob("data/*_round*.jsonl")) or (workdir / REPEATED[0]).exists()):
        # Nothing has been annotated yet, so these have shaped nothing.
        found = _with_keys(found, changes, "annotation")
    if "rounds" not in changes:
        return found
    names = [part.name for part in parts]
    first, last = (names.index(name) for name in REPEATED)
    made = [workdir / name for name in names[first : last + 1] if (workdir / name).exists()]
    after = [part for part in parts[last + 1 :] if (workdir / part.name).exists()]
    finished = (workdir / REPEATED[1] / "done.json").is_file() and not any(path.is_symlink() for path in made)
    if not (finished and isinstance(old, int) and new > old and all(part.measures for part in after)):
        return found
    folder = workdir / "rounds" / str(old)
    line = f"rounds: {old} → {new}: the run goes on to round {old + 1}; what it has is now in {folder}"
    moves = tuple((path, folder / path.name) for path in made)
    found = dataclasses.replace(
        found,
        keys=(*found.keys, "rounds"),
        moves=(*found.moves, *moves),
        lines=(*found.lines, line),
        marks=(folder / "config.json",),
    )
    for part in after:
        found = set_aside(found, workdir / part.name, "it rests on the last round")
    return found


def _with_keys(found: Again, changes: Changes, group: str) -> Again:
    keys = tuple(key for key in changes if is_under(key, (group,)))
    return dataclasses.replace(found, keys=(*found.keys, *keys))
