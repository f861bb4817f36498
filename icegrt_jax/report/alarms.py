"""What the report says of a stage's alarms: a table, and where they began for the curves."""

import pathlib
from collections.abc import Sequence
from typing import Any

from icegrt_jax import files
from icegrt_jax.runs.alarm_watch import FILE

COLUMNS = ("alarm", "iterations", "measured", "likely cause", "what to change")


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The beginnings and ends that a stage has written."""
    path = folder / FILE
    return files.read_jsonl(path) if path.is_file() else []


def table(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Columns and rows as texts, a row for each beginning; None where there was none."""
    rows = []
    for i, event in enumerate(events):
        if event["begins"]:
            end = next((e["step"] for e in events[i + 1 :] if e["alarm"] == event["alarm"]), None)
            change = "; ".join(f"{key}: {how}" for key, how in event["change"].items())
            span = f"from {event['step']} on" if end is None else f"{event['step']} to {end}"
            rows.append([event["alarm"], span, event["measured"], event["cause"], change])
    return {"columns": COLUMNS, "rows": rows} if rows else None


def marks(events: Sequence[dict[str, Any]]) -> list[tuple[str, int, str]]:
    """(metric, step, alarm) of each beginning."""
    return [(event["metric"], event["step"], event["alarm"]) for event in events if event["begins"]]
