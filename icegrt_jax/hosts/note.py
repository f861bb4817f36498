"""How far the run in a workdir is, kept beside its lock for whoever asks (`icegrt status`); it is gone when it is done.

A note is no part of a run: nothing that trains reads it, and where it cannot be written nothing is said.
"""

import contextlib
import json
import os
import pathlib
import time
from typing import Any

FILE_NAME = ".progress"
SECONDS = 5.0  # between two notes


class Note:
    """Of one stage. `folder` None: none is kept."""

    def __init__(self, folder: pathlib.Path | None):
        self._path = None if folder is None else folder / FILE_NAME
        self._written = -SECONDS

    def write(self, said: dict[str, Any], *, now: bool = False) -> None:
        """Keeps what is said and when, unless that was done just before; `now`: in any case."""
        if self._path is None or not (now or time.monotonic() - self._written >= SECONDS):
            return
        self._written = time.monotonic()
        with contextlib.suppress(OSError):
            _beside(self._path).write_text(json.dumps({**said, "at": time.time()}), encoding="utf-8")
            os.replace(_beside(self._path), self._path)

    def remove(self) -> None:
        """Leaves nothing, nor what a killed process may have left half-written."""
        for path in () if self._path is None else (self._path, _beside(self._path)):
            with contextlib.suppress(OSError):
                path.unlink()


def _beside(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.tmp")


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The last note in a workdir, empty where there is none."""
    try:
        said = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
