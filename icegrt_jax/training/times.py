"""`times.jsonl` of a stage: when it was worked on and on what, and of its rows how fast it was and the learning rate.

Apart from the metrics, because a repeated run would not write the same again. Nothing that trains reads it: whatever is
no row in it is passed over, and rows of steps that came again after a stop stand there twice.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from icegrt_jax.config.reruns import TIMES as FILE


def append(folder: pathlib.Path, row: Mapping[str, Any]) -> None:
    """Adds a row; one that a kill has left half-written before it ends there."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / FILE, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        broken = size and file.read(1) != b"\n"
        file.write(b"\n" * bool(broken) + json.dumps(row, ensure_ascii=False).encode() + b"\n")


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The rows, in the order they were written."""
    try:
        lines = (folder / FILE).read_bytes().splitlines()
    except OSError:
        return []
    return [row for line in lines if isinstance(row := _row(line), dict)]


def by_step(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the rows that are of a step one for each step, in order: what was written last counts."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        if isinstance(row.get("step"), int):
            found[row["step"]] = found.get(row["step"], {}) | row
    return [found[step] for step in sorted(found)]


def _row(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
