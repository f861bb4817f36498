"""What another config has a workdir do again or go on with: measurements, and stages whose training is now longer.

Imports no jax: results are set aside before a program begins.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icegrt_jax import files, sums
from icegrt_jax.config.file import is_under

Changes = Mapping[str, tuple[Any, Any]]  # {key: (value before, value now)}


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a run, and the keys that change it without another beginning.

    Attributes:
      name: of its folder.
      length: the key of its steps, "" where it does not train.
      measured_by: keys that shape only what it says of the models.
      measures: nothing of it is read by other parts.
    """

    name: str
    length: str
    measured_by: tuple[str, ...]
    measures: bool


@dataclasses.dataclass(frozen=True)
class Again:
    """What is set aside, and the keys that may change because of it.

    Attributes:
      keys: these.
      moves: (what is there, its new place).
      lines: what is said.
      measured: `done.json` files whose measurement is taken out.
      marks: files that are there once it has been gone on with.
    """

    keys: tuple[str, ...] = ()
    moves: tuple[tuple[pathlib.Path, pathlib.Path], ...] = ()
    lines: tuple[str, ...] = ()
    measured: tuple[pathlib.Path, ...] = ()
    marks: tuple[pathlib.Path, ...] = ()

    def apply(self) -> Callable[[], bool]:
        """Sets it aside; what is returned puts it back, if nothing has been done again or gone on with yet: whether."""
        saved = self._checkpoints()
        for line in self.lines:
            print(line, flush=True)
        for old, aside in self.moves:
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.rename(old, aside)
            sums.forget(old)
        for path in self.measured:
            aside = next(place for old, place in self.moves if old == path)
            done = {name: value for name, value in files.read_json(aside).items() if name != "heldout"}
            files.write_json_atomic(path, done)

        def undo() -> bool:
            begun = any(old.exists() for old, _ in self.moves if old not in self.measured)
            begun = begun or any(path.exists() for path in self.marks)
            if begun or saved != self._checkpoints() or any("heldout" in files.read_json(p) for p in self.measured):
                return False
            for old, aside in self.moves:
                os.replace(aside, old)
            return True

        return undo

    def _checkpoints(self) -> list[str]:
        """Those of the stages whose end is set aside."""
        return sorted(str(path) for old, _ in self.moves for path in (old.parent / "checkpoints").glob("[0-9]*"))


def find(
    parts: Sequence[Part],
    workdir: pathlib.Path,
    changes: Changes,
    config: Mapping[str, Any],
    first_part: Callable[[str], str | None],
) -> Again:
    """What a workdir does again with another config, as far as that may be; other keys are for others to refuse.

    Args:
      parts: of a run, in order.
      config: the one now, flat.
      first_part: the part that is the first to read a key.
    """
    found = Again()
    for i, part in enumerate(parts):
        later = [p for p in parts[i + 1 :] if (workdir / p.name).exists()]
        own = {key: change for key, change in changes.items() if first_part(key) == part.name}
        if not (config.get(f"{part.name}.best") or config.get(f"{part.name}.average")):  # else it decides what is kept
            found = _measured(found, part, workdir, own)
        if part.length in changes and all(p.measures for p in later) and not any(workdir.glob("rounds/*/*")):
            found = _longer(found, part, workdir, changes[part.length], config)
            if part.length in found.keys:
                for measuring in later:
                    found = set_aside(found, workdir / measuring.name, f"it rests on {part.name}")
    return found


def _measured(found: Again, part: Part, workdir: pathlib.Path, changes: Changes) -> Again:
    keys = tuple(key for key in changes if is_under(key, part.measured_by))
    folder = workdir / part.name
    if not keys or not folder.exists():
        return found
    found = dataclasses.replace(found, keys=(*found.keys, *keys))
    why = f"{', '.join(keys)} {'has' if len(keys) == 1 else 'have'} changed"
    if part.measures:
        return set_aside(found, folder, why)
    done = folder / "done.json"
    if folder.is_symlink():
        line = f"{part.name}: {why}; the stage is another run's, which has measured it on its own held-out sets"
        return dataclasses.replace(found, lines=(*found.lines, line))
    if not done.exists() or "heldout" not in files.read_json(done) or all(key.endswith("_every") for key in keys):
        return found
    moves = [(path, _free(path)) for path in (done, folder / "calibration.json") if path.exists()]
    line = f"{part.name}: {why}; measured again, what was found before is in {', '.join(str(new) for _, new in moves)}"
    return dataclasses.replace(
        found, lines=(*found.lines, line), moves=(*found.moves, *moves), measured=(*found.measured, done)
    )


def set_aside(found: Again, folder: pathlib.Path, why: str) -> Again:
    if any(old == folder for old, _ in found.moves):
        return found
    aside = _free(folder)
    line = f"{folder.name}: {why}; done again, the old results are in {aside}"
    return dataclasses.replace(found, lines=(*found.lines, line), moves=(*found.moves, (folder, aside)))


def _longer(
    found: Again, part: Part, workdir: pathlib.Path, change: tuple[Any, Any], config: Mapping[str, Any]
) -> Again:
    """Has a stage that has begun go on to more steps than it was to have."""
    (old, new), folder = change, workdir / part.name
    if not folder.exists() or folder.is_symlink() or not (isinstance(old, int) and isinstance(new, int) and new > old):
        return found
    lines = [f"{part.name}: {part.length} {old} → {new}: it goes on to {new}"]
    for key, value in config.items():
        if key.startswith(f"{part.name}.") and key.endswith(".schedule") and value != "constant":
            lines.append(
                f"{part.name}: {key} ({value}) is now as long as {new} of them, not {old}: the learning rate is "
                "another from here on than it would have been"
            )
    done = folder / "done.json"
    moves = [(done, _free(done))] if done.exists() else []
    return dataclasses.replace(
        found, keys=(*found.keys, part.length), moves=(*found.moves, *moves), lines=(*found.lines, *lines)
    )


def _free(path: pathlib.Path) -> pathlib.Path:
    """The first name beside a path that nothing has: evaluate.1, done.1.json."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return aside
