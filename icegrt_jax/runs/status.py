"""What can be seen of a run from outside: which stages are done, where it is, what it last measured. Imports no jax."""

import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from icegrt_jax import files
from icegrt_jax.config import file as config_file
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import lock, note

PAGE = "report"
TAIL = 1 << 18  # bytes of a metrics.jsonl that are read, from its end
# Of the numbers of a stage those that are shown, in this order; a group stands for all in it.
NUMBERS = ("loss", "target_prob", "accuracy", "score_raw", "reward/", "gold", "kl", "length", "heldout/")


def look(workdir: pathlib.Path, parts: Sequence[tuple[str, str]], repeated: tuple[str, str]) -> dict[str, Any]:
    """All that `icegrt status --json` prints.

    Args:
      parts: (name, key of its steps or "" where it has none) of each part of a run, in order.
      repeated: the first and the last part of a round.
    """
    path = workdir / config_file.FILE_NAME
    if not path.is_file():
        raise UserError(f"{workdir} holds no run: it has no {path.name}; expected the --workdir of one.")
    config = files.read_json(path)
    names, rounds = [name for name, _ in parts], config.get("rounds", 1)
    steps = {name: _value(config, key) if key else None for name, key in parts}
    due = [name for name in names if steps[name] != 0]
    first, last = names.index(repeated[0]), names.index(repeated[1]) + 1
    places = [(name, workdir, 0) for name in due if name in names[:first]]
    for number in range(1, rounds + 1):
        folder = workdir if number == rounds else workdir / lock.ROUNDS / str(number)
        places += [(name, folder, number if rounds > 1 else 0) for name in due if name in names[first:last]]
    places += [(name, workdir, 0) for name in due if name in names[last:]]
    stages = [_stage(folder, name, steps[name], number) for name, folder, number in places]
    for one in stages:  # the page is written while a run goes on as well, and has no done.json
        others = [other["state"] == "finished" for other in stages if other is not one]
        if one["name"] == PAGE and all(others) and (workdir / PAGE / "index.html").is_file():
            one["state"] = "finished"
    holder = lock.holder(workdir)
    _mark(stages, holder)
    state = (
        "running"
        if holder is not None
        else "finished"
        if all(one["state"] == "finished" for one in stages)
        else "stopped"
    )
    return {"workdir": str(workdir), "state": state, "holder": holder, "stages": stages, "bytes": _size(workdir)}


def _mark(stages: list[dict[str, Any]], holder: Mapping[str, Any] | None) -> None:
    """Says which stage a run is at, and what is left of it; a note of a run that has ended tells nothing of that."""
    open_ = [one for one in stages if one["state"] != "finished"]
    noted = [one for one in open_ if one["note"]]
    if holder is not None and open_:
        own = [one for one in open_ if one["name"] == holder.get("command")]
        now = (noted or own or open_)[0]
        now["state"], said = "running", now["note"]
        if said:
            age = max(time.time() - said["at"], 0.0)
            now["doing"] = "compiling" if said["compiling"] else said["phase"]
            if said["s_per_step"] is not None:
                left = said["s_per_step"] * (said["total"] - said["step"]) - age
                now["seconds_left"] = round(max(left, 0.0), 1)
    for one in stages:
        del one["note"]


def _stage(workdir: pathlib.Path, name: str, steps: int | None, number: int) -> dict[str, Any]:
    folder, said = workdir / name, note.read(workdir)
    said = said if said.get("stage") == name else {}
    done, rows = _read(folder / "done.json"), _rows(folder / "metrics.jsonl")
    kept = _checkpoints(folder)
    step = done.get("step", max([0, *kept, said.get("step", 0), *(row["step"] for row in rows)]))
    return {
        "name": name,
        **({"round": number} if number else {}),
        "state": "finished" if done else "stopped" if folder.is_dir() or said else "not begun",
        "step": step if steps else None,
        "steps": steps or None,
        "numbers": _numbers(rows),
        "alarms": _alarms(folder / "alarms.jsonl"),
        "checkpoints": kept,
        "bytes": _size(folder),
        "note": said,
    }


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part, 0)
    return value


def _read(path: pathlib.Path) -> dict[str, Any]:
    return files.read_json(path) if path.is_file() else {}


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The last rows of a metrics.jsonl; what a writer has only half written is left out."""
    try:
        with open(path, "rb") as file:
            start = max(os.fstat(file.fileno()).st_size - TAIL, 0)
            file.seek(start)
            lines = file.read().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines[1:] if start else lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def _numbers(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The last known value of each number that is shown."""
    last: dict[str, Any] = {}
    for row in rows:
        last |= {name: value for name, value in row.items() if isinstance(value, int | float)}
    fits = lambda name, shown: name.startswith(shown) if shown.endswith("/") else name == shown
    return {name: value for shown in NUMBERS for name, value in last.items() if fits(name, shown)}


def _alarms(path: pathlib.Path) -> list[dict[str, Any]]:
    """Those that have begun and not ended: each one's name, its step and what was measured."""
    holding: dict[str, dict[str, Any]] = {}
    for event in files.read_jsonl(path) if path.is_file() else ():
        if event["begins"]:
            holding[event["alarm"]] = {name: event[name] for name in ("alarm", "step", "measured")}
        else:
            holding.pop(event["alarm"], None)
    return list(holding.values())


def _checkpoints(folder: pathlib.Path) -> list[int]:
    """The steps of those that are kept."""
    try:
        names = os.listdir(folder / "checkpoints")
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdigit())


def _size(folder: pathlib.Path) -> int:
    """Bytes of the files in a folder; what is linked from elsewhere isn't counted, what vanishes meanwhile neither."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total
