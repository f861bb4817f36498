"""`icegrt status`: how far the run in a workdir is, whether it runs, has ended or was stopped. Imports no jax."""

import json
import pathlib
import sys
from typing import Any

from rich.table import Table

from icegrt_jax import commands, terminal
from icegrt_jax.config.reruns import REPEATED
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import lock
from icegrt_jax.runs import status

UNITS = ("B", "kB", "MB", "GB", "TB")


def main(workdir: str, as_json: bool = False) -> None:
    """Prints it, as tables or as JSON."""
    if not workdir:
        raise UserError("icegrt status: expected the run's folder, as in icegrt status runs/quickstart.")
    parts = [(command.name, command.length) for command in commands.in_run()]
    found = status.look(pathlib.Path(workdir), parts, REPEATED)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    console = terminal.console(sys.stdout)
    by = "" if found["holder"] is None else f", {lock.named(found['holder'])}"
    console.print(f"{workdir}: {found['state']}{by}, {size(found['bytes'])} on disk")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("stage", "state", "step", "time left", "checkpoints", "on disk"):
        table.add_column(title, justify="left" if title in ("stage", "state") else "right")
    for stage in found["stages"]:
        table.add_row(*_row(stage), style={"running": "bold cyan", "not begun": "dim"}.get(stage["state"], ""))
    console.print(table)
    for stage in found["stages"]:
        if stage["numbers"]:
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in stage["numbers"].items())
            console.print(f"{_name(stage)}: {numbers}")
        for alarm in stage["alarms"]:
            said = f"{_name(stage)}: alarm {alarm['alarm']} since step {alarm['step']}: {alarm['measured']}"
            console.print(said, style="yellow")
    if found["state"] == "stopped":
        console.print("Nothing runs there; the command that began it goes on from the last checkpoint.")


def _row(stage: dict[str, Any]) -> tuple[str, ...]:
    state = stage["state"] + (f", {stage['doing']}" if stage.get("doing") else "")
    step = f"{stage['step']}/{stage['steps']}" if stage["steps"] else ""
    left = terminal.clock(stage["seconds_left"]) if "seconds_left" in stage else ""
    kept = str(len(stage["checkpoints"])) if stage["checkpoints"] else ""
    return _name(stage), state, step, left, kept, size(stage["bytes"]) if stage["bytes"] else ""


def _name(stage: dict[str, Any]) -> str:
    return stage["name"] + (f", round {stage['round']}" if "round" in stage else "")


def size(count: int) -> str:
    """Of so many bytes, in the unit that leaves few digits: 12 kB, 1.3 GB."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {UNITS[unit]}" if unit and value < 9.95 else f"{value:.0f} {UNITS[unit]}"
