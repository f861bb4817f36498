"""When a stage was worked on, by which version and on which devices, for the report; see `training.times`."""

import contextlib
import datetime
import os
import pathlib
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

from icegrt_jax.config.reruns import is_bare
from icegrt_jax.hosts import sync
from icegrt_jax.training import times
from icegrt_jax.version import __version__

PROGRAMS = ("icegrt", "__main__.py")  # whose arguments are a command of ours


@contextlib.contextmanager
def recorded(folder: pathlib.Path) -> Iterator[None]:
    """Notes in the stage's folder that work on it begins, and when it has ended: by itself, or stopped by an error.

    One that is stopped before it has made anything, as a check of its first batch does, leaves no folder.
    """
    if not sync.is_main():
        yield
        return
    times.append(folder, {"begins": now(), **machine()})
    began, ended = time.perf_counter(), "stopped"
    try:
        yield
        ended = "finished"
    finally:
        if is_bare(folder):
            shutil.rmtree(folder)
        else:
            times.append(folder, {"ends": now(), "seconds": round(time.perf_counter() - began, 3), "how": ended})


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def machine() -> dict[str, Any]:
    """What the work is done on and with, and the command it was begun by; nothing of who or where."""
    devices = jax.devices()
    return {
        "version": __version__,
        "devices": {"count": len(devices), "platform": devices[0].platform, "kind": devices[0].device_kind},
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        **({"command": command} if (command := _command()) else {}),
    }


def _command() -> str:
    """The command line of `icegrt`; "" where another program has called."""
    return shlex.join(["icegrt", *sys.argv[1:]]) if pathlib.Path(sys.argv[0]).name in PROGRAMS else ""
