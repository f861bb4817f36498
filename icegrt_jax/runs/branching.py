"""A run that begins with another run's finished stages: referenced by links, their fingerprints in WORKDIR/from.json.

Imports no jax: all of it is done before a program begins.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from icegrt_jax import files, sums
from icegrt_jax.config import file as config_file
from icegrt_jax.config import reruns
from icegrt_jax.config.reruns import REPEATED
from icegrt_jax.errors import UserError

FILE_NAME = "from.json"
# Of a finished stage, beside done.json, by those after it.
READ = ("checkpoints/{step}", "best", "average", "tokenizer", "member_scores.json")
REMEASURED = ("heldout",)  # of done.json: may be measured again

Entry = list[Any]  # of a file: its size, the time of its last change in ns, the SHA-256 of its content


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a run begins: at the end of a stage of another run."""

    run: pathlib.Path
    stage: str

    def __str__(self) -> str:
        return f"--from={self.run}:{self.stage}"


def parse(text: str, command: str, stages: Sequence[str]) -> Source:
    """The source that --from names.

    Args:
      command: that is to go on there.
      stages: what may be taken, and the other parts of a run, in their order.
    """
    run, _, stage = text.rpartition(":")
    if not run or not stage:
        raise UserError(f"--from={text}: expected RUN:STAGE, another run's workdir and the last stage to take from it.")
    if stage not in stages:
        close = config_file.nearest(stage, stages)
        hint = f"did you mean {close}?" if close else f"the stages are {', '.join(stages)}."
        raise UserError(f"--from={text}: there is no stage {stage!r} that leaves a model; {hint}")
    if command in stages and stages.index(command) <= stages.index(stage):
        raise UserError(
            f"--from={text} takes {stage} and all before it from that run, so icegrt {command} has nothing to do; "
            "name an earlier stage."
        )
    return Source(pathlib.Path(os.path.abspath(pathlib.Path(run).expanduser())), stage)


def take(
    source: Source, config: config_file.Group, workdir: pathlib.Path, stages: Sequence[str],
    parts: Mapping[str, Sequence[str]], last: str, free: tuple[str, ...],
) -> Callable[[], None]:  # fmt: skip
    """Begins `workdir` with the stages up to the source's.

    What is returned takes that back where nothing else has been left.

    Args:
      config: of the new run.
      stages: see `parse`. parts: see `reruns.first_part`; last: of them that the stages taken have made.
      free: keys that may differ whatever they shape.
    """
    if (workdir / FILE_NAME).exists():
        _again(source, workdir)
        return lambda: None
    if any((workdir / name).exists() for name in (config_file.FILE_NAME, *parts)):
        raise UserError(f"{workdir} holds a run already, and {source} is for a new one; choose another --workdir.")
    taken = _finished(source, workdir, stages)
    shaped = _check_config(source, config, parts, last, free)
    rounds = _earlier_rounds(source.run) if REPEATED[0] in taken else []
    record = {
        "run": str(source.run),
        "stage": source.stage,
        "stages": {stage: _stage(source.run / stage, {}) for stage in (*taken, *rounds)},
        "tokenizer": _folder(source.run / "tokenizer", ("",), {}),
        "config": shaped,
    }
    workdir.mkdir(parents=True, exist_ok=True)
    made = [*_linked((*taken, *rounds)), "tokenizer"]
    for name in made:
        (workdir / name).symlink_to(source.run / name)
    sums.begin(workdir)
    files.write_json_atomic(workdir / FILE_NAME, record)

    def undo():
        ours = {FILE_NAME, sums.FILE_NAME, *made}
        if {path.name for path in workdir.iterdir()} <= {config_file.FILE_NAME, *ours}:
            for name in ours:
                (workdir / name).unlink()

    return undo


def check(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What `workdir` has taken from another run, None for nothing; refused if it is gone or is no longer the same."""
    path = workdir / FILE_NAME
    if not path.exists():
        return None
    record = files.read_json(path)
    source = Source(pathlib.Path(record["run"]), record["stage"])
    for stage in record["stages"]:
        if not (source.run / stage / "done.json").is_file():
            raise UserError(
                f"{path}: this run has its {stage} stage from {source.run}, which is no longer there or not finished; "
                f"bring it back, or name the place that it has moved to: --from=PLACE:{source.stage}."
            )
    new = {stage: _stage(source.run / stage, old["files"]) for stage, old in record["stages"].items()}
    tokenizer = _folder(source.run / "tokenizer", ("",), record["tokenizer"])
    for stage, old in record["stages"].items():
        differing = [name for name in ("done.json",) if new[stage]["done"] != old["done"]]
        _refuse_changed(path, source.run / stage, [*differing, *_differing(old["files"], new[stage]["files"])])
    _refuse_changed(path, source.run / "tokenizer", _differing(record["tokenizer"], tokenizer))
    return record


def _again(source: Source, workdir: pathlib.Path) -> None:
    """Refuses another source than the one that the run began with; one that has only moved is found there from now on.

    That it is the same is for `check` to say.
    """
    path = workdir / FILE_NAME
    record = files.read_json(path)
    old = Source(pathlib.Path(record["run"]), record["stage"])
    if source == old:
        return
    if source.stage != old.stage or (old.run / old.stage / "done.json").is_file():
        raise UserError(
            f"{workdir} has begun with {old}, not with {source}; choose another --workdir, or leave it out."
        )
    for name in (*_linked(record["stages"]), "tokenizer"):
        if not (source.run / name).is_dir():
            raise UserError(f"{source}: {source.run / name} is not there; name the run that {workdir} has begun with.")
    moved = {**record, "run": str(source.run)}
    files.write_json_atomic(path, moved)
    try:
        check(workdir)
    except UserError:
        files.write_json_atomic(path, record)
        raise
    for name in (*_linked(record["stages"]), "tokenizer"):
        (workdir / name).unlink()
        (workdir / name).symlink_to(source.run / name)


def _earlier_rounds(run: pathlib.Path) -> list[str]:
    """The stages of the rounds before the last one, by their places in the run."""
    return [path.parent.relative_to(run).as_posix() for path in sorted(run.glob("rounds/*/*/done.json"))
            if not path.parent.is_symlink()]  # fmt: skip


def _linked(stages: Iterable[str]) -> list[str]:
    """What a branch has links of: the stages, and of earlier rounds their common folder."""
    return list(dict.fromkeys(stage.partition("/")[0] for stage in stages))


def _finished(source: Source, workdir: pathlib.Path, stages: Sequence[str]) -> list[str]:
    """The stages to take; refused if one is not finished."""
    if workdir == source.run:
        raise UserError(f"{source} is this --workdir itself; name a new one, or leave --from out to go on there.")
    if not (source.run / config_file.FILE_NAME).is_file():
        raise UserError(f"{source}: no {config_file.FILE_NAME} in {source.run}; expected the workdir of a run.")
    check(source.run)  # of a branch of a branch
    wanted = [s for s in stages[: stages.index(source.stage) + 1] if s == source.stage or (source.run / s).is_dir()]
    for stage in wanted:
        if not (source.run / stage / "done.json").is_file():
            raise UserError(f"{source}: {stage} has not finished in {source.run}; let it finish, or name one that has.")
    return wanted


def _check_config(
    source: Source, config: config_file.Group, parts: Mapping[str, Sequence[str]], last: str, free: tuple[str, ...]
) -> dict[str, Any]:
    """The keys that have shaped what is taken, with their values; refused where they are not those of the source."""
    names = list(parts)
    later = names[names.index(last) + 1 :]
    shapes = lambda key: not config_file.is_under(key, free) and reruns.first_part(parts, key) not in later
    changed = config_file.changes(config, source.run, free, reruns.GONE, reruns.ADDED)
    if differing := [key for key in changed if shapes(key)]:
        raise UserError(
            f"{source}: its stages up to {source.stage} were made with another config "
            f"({config_file.shown_changes(changed, differing)}); repeat the values of that run, or name an earlier "
            "stage, which they have not shaped."
        )
    flat = config_file.flatten(config_file.from_json(config_file.to_json(config)))
    plain = lambda value: list(value) if isinstance(value, tuple) else value
    return {key: plain(value) for key, value in flat.items() if shapes(key) and not hasattr(value, "items")}


def _refuse_changed(path: pathlib.Path, folder: pathlib.Path, changed: list[str]) -> None:
    if changed:
        raise UserError(
            f"{path}: {folder / changed[0]} is no longer what this run has begun with"
            f"{f', nor are {len(changed) - 1} more files' if len(changed) > 1 else ''}; bring that back, or begin in "
            "another --workdir."
        )


def _stage(folder: pathlib.Path, known: dict[str, Entry]) -> dict[str, Any]:
    """Fingerprints of a finished stage, and of its data as far as it tells them."""
    done = files.read_json(folder / "done.json")
    kept = {name: value for name, value in done.items() if name not in REMEASURED}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    read = [place.format(step=done["step"]) for place in READ]
    return {"done": digest, "data": done.get("data", {}), "files": _folder(folder, read, known)}


def _folder(folder: pathlib.Path, places: Iterable[str], known: dict[str, Entry]) -> dict[str, Entry]:
    """{path: entry} of the files in some places of a folder; one that is `known` with its size and time isn't read."""
    within = lambda place: [place] if place.is_file() else sorted(place.rglob("*"))
    paths = [path for place in places for path in within(folder / place) if path.is_file()]
    entries = {}
    for path in paths:
        name, stat = path.relative_to(folder).as_posix(), path.stat()
        old = known.get(name)
        unread = old is None or old[:2] != [stat.st_size, stat.st_mtime_ns]
        entries[name] = [stat.st_size, stat.st_mtime_ns, files.sha256(path)] if unread or old is None else old
    return entries


def _differing(old: dict[str, Entry], new: dict[str, Entry]) -> list[str]:
    """Files whose content is another, is gone or has come."""
    content = lambda entries, name: entries[name][2] if name in entries else None
    return [name for name in sorted(old.keys() | new.keys()) if content(old, name) != content(new, name)]
