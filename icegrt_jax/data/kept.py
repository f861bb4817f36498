"""What is remembered of data from one process to the next: small JSON files, done without where they cannot be used."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from icegrt_jax import files


def read(path: str | os.PathLike) -> dict[str, Any]:
    """What is kept in a file; nothing where it is missing or broken."""
    try:
        found = json.loads(pathlib.Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def update(path: str | os.PathLike, learned: Mapping[str, Any]) -> None:
    """Keeps more in a file."""
    path = pathlib.Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json_atomic(path, {**read(path), **learned})
    except OSError:
        pass  # a home that cannot be written to: it is found out again next time
