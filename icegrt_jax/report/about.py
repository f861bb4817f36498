"""What was run, when, on what and for how long, from what a run has recorded of itself."""

import datetime
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from icegrt_jax import files
from icegrt_jax.report import words
from icegrt_jax.runs.stage import Stage
from icegrt_jax.training import times

COMPILES = "compiles.json"


def stage_facts(folder: pathlib.Path, stage: Stage, last_step: int) -> dict[str, Any] | None:
    """A row of the table of stages; None of one that has not begun.

    Args:
      last_step: of its metrics; 0 where it has none.
    """
    rows, done = times.read(folder), (folder / "done.json").is_file()
    if not (rows or done or last_step):
        return None
    begun, ended = (found(rows, key) for key in ("begins", "ends"))
    compiled = files.read_json(folder / COMPILES) if (folder / COMPILES).is_file() else {}
    state = "finished" if done else "stopped" if ended and len(ended) == len(begun) else "under way"
    step = last_step or (files.read_json(folder / "done.json").get("step", 0) if done else 0)
    return {
        "name": stage.name,
        "title": stage.title or stage.name,
        "state": state,
        "steps": step if stage.panels else None,
        "began": begun[0] if begun else "",
        "ended": ended[-1] if ended else "",
        "seconds": seconds_of(rows),
        "sessions": len(begun),
        "compiling": compiled.get("seconds"),
        "taken_from": taken_from(folder),
    }


def found(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """The values of a key, of the rows that have it."""
    return [row[key] for row in rows if key in row]


def seconds_of(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """How long a stage was worked on; of a session without an end, killed or under way, up to its last row."""
    total, open_, inside = 0.0, False, 0.0
    known = False
    for row in rows:
        if "begins" in row:
            total, open_, inside = total + (inside if open_ else 0.0), True, 0.0
        elif "ends" in row:
            total, open_, known = total + float(row.get("seconds", 0.0)), False, True
        elif open_:
            spent = sum(value for name, value in row.items() if name.startswith("time/") and name.endswith("_s")
                        and not name.endswith("_per_s") and isinstance(value, float | int))  # fmt: skip
            inside, known = inside + spent, known or spent > 0
    return total + (inside if open_ else 0.0) if known else None


def taken_from(folder: pathlib.Path) -> str:
    """The name of the run whose stage this is, "" for the run's own."""
    return folder.resolve().parent.name if folder.is_symlink() else ""


def of_run(workdir: pathlib.Path, stages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What stands above everything: the machines, versions and commands of all stages together."""
    sessions = [row for stage in stages for row in times.read(workdir / stage["name"]) if "begins" in row]
    sessions.sort(key=lambda row: str(row["begins"]))
    ends = sorted(stage["ended"] for stage in stages if stage["ended"])
    spent = [stage["seconds"] for stage in stages if stage["seconds"] is not None]
    return {
        "began": sessions[0]["begins"] if sessions else "",
        "ended": ends[-1] if ends else "",
        "seconds": sum(spent) if spent else None,
        "devices": unique(devices(row) for row in sessions),
        "versions": unique(versions(row) for row in sessions),
        "commands": unique(row.get("command", "") for row in sessions),
        "sessions": len(sessions),
    }


def unique(texts) -> list[str]:
    """In their order, without empty ones."""
    return list(dict.fromkeys(filter(None, texts)))


def devices(row: Mapping[str, Any]) -> str:
    """The devices of a session in words."""
    found = row.get("devices")
    if not isinstance(found, Mapping):
        return ""
    kind, platform = str(found.get("kind", "")), str(found.get("platform", ""))
    what = platform.upper() if kind.lower() in ("", platform.lower()) else f"{kind} ({platform.upper()})"
    cores = f", {row['cores']} cores" if platform == "cpu" and row.get("cores") else ""
    processes = f", {row['processes']} processes" if row.get("processes", 1) != 1 else ""
    return f"{found.get('count', '?')} × {what}{cores}{processes}"


def versions(row: Mapping[str, Any]) -> str:
    """The versions of a session in words."""
    parts = {"icegrt_jax": row.get("version"), "jax": row.get("jax"), "Python": row.get("python")}
    return ", ".join(f"{name} {version}" for name, version in parts.items() if version)


def overrides(commands: Sequence[str]) -> set[str]:
    """The keys of the config that were set on a command line."""
    words_of = [word for command in commands for word in command.replace("'", "").replace('"', "").split()]
    keys = [word.removeprefix("--config.").partition("=")[0] for word in words_of if word.startswith("--config.")]
    return {*keys, *(word.removeprefix("--noconfig.") for word in words_of if word.startswith("--noconfig."))}


def moment(text: str) -> str:
    """A time as one reads it: 2026-11-29 21:46 UTC."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return ""
    return when.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def lines(about: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(what, its values) as they stand on the page; what is not known is left out."""
    when = " to ".join(filter(None, (moment(about["began"]), moment(about["ended"]))))
    spent = words.duration(about["seconds"]) if about["seconds"] is not None else ""
    sessions = f", in {about['sessions']} sessions" if about["sessions"] else ""
    found = [
        ("When", unique([when])), ("Time in the stages", unique([f"{spent}{sessions}" if spent else ""])),
        ("Devices", about["devices"]), ("Versions", about["versions"]), ("Commands", about["commands"]),
    ]  # fmt: skip
    return [(what, values) for what, values in found if values]
