"""Processes come together: who is waited for, where they meet, and whether they were started alike."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.hosts.rendezvous import Meeting
from icegrt_jax.version import __version__

FOLDER = ".hosts"  # in the workdir; a folder in it for each start, removed at its end
FIRST_LOOK = 60.0  # seconds in which a shared folder shows what another host has written


@contextlib.contextmanager
def joining(
    workdir: pathlib.Path, count: int | None, index: int | None, timeout: float, give_up: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """While JAX connects the processes: calls `give_up`, from a thread, with a sentence where not all come in time.

    Gives what takes this process's file back once all have come.

    Who is there is told by files that change: those of an earlier start do not.

    Args:
      count, index: how many there are and which one this is, None where only JAX knows.
      timeout: seconds.
    """
    folder = workdir / FOLDER / "joining"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another --workdir.") from error
    own = f"{'' if index is None else index}.{socket.gethostname()}.{os.getpid()}"
    joined, here = threading.Event(), {own}
    at_first: dict[str, str] = {}

    def look():
        # The main process clears the folder away once all have come.
        with contextlib.suppress(OSError):
            (folder / own).write_text(str(time.time_ns()), encoding="utf-8")
            for path in folder.iterdir():
                stamp = path.read_text(encoding="utf-8")
                if at_first.setdefault(path.name, stamp) != stamp:
                    here.add(path.name)

    def wait():
        until = time.monotonic() + timeout
        while not joined.wait(min(1.0, timeout / 5)):
            look()
            if time.monotonic() > until:
                leave()
                give_up(_absentees(workdir, count, timeout, here))
                return

    def leave():
        (folder / own).unlink(missing_ok=True)
        for empty in (folder, folder.parent, workdir):
            with contextlib.suppress(OSError):
                empty.rmdir()

    look()
    threading.Thread(target=wait, daemon=True).start()
    try:
        yield leave
    except UserError:
        joined.set()
        leave()
        raise
    joined.set()


def _absentees(workdir: pathlib.Path, count: int | None, timeout: float, here: set[str]) -> str:
    """Who has not come, from the names of those that have: PROCESS.HOST.PID, the first empty where it is not known."""
    where = f"within {timeout:g} s ({workdir} must be a folder that all hosts share)"
    if count:
        came = {name.split(".")[0] for name in here}
        missing = [str(i) for i in range(count) if str(i) not in came]
        if not missing:
            return "all processes are there, but not all reach --coordinator; check its port and the network."
        return f"process {', '.join(missing)} of {count} did not come {where}."
    names = sorted(name.split(".", 1)[1].rpartition(".")[0] for name in here)
    return f"not all processes came {where}; those that did are on {', '.join(names)}."


def meet(workdir: pathlib.Path, timeout: float, *, clear: bool = True) -> Meeting:
    """Makes the folder of this start, under a name that process 0 draws; `clear`: no other run is in the workdir."""
    drawn = np.frombuffer(secrets.token_bytes(4), np.uint8).astype(np.int32)
    if clear and jax.process_index() == 0:
        shutil.rmtree(workdir / FOLDER, ignore_errors=True)  # also of runs that were killed
    name = bytes(multihost_utils.broadcast_one_to_all(drawn).astype(np.uint8)).hex()
    meeting = Meeting(workdir / FOLDER / name, jax.process_index(), jax.process_count(), timeout)
    sync.open_meeting(meeting)
    first_look = min(FIRST_LOOK, timeout)
    hint = f"{workdir} must be a folder that all hosts share"
    meeting.introduce(meeting.exchange("the start", socket.gethostname(), timeout=first_look, hint=hint))
    return meeting


def compare(meeting: Meeting, config: str, workdir: pathlib.Path, command: list[Any]) -> None:
    """Refuses processes that were started with something else than process 0, or see another workdir."""
    mine = {
        "config": _flat(json.loads(config)),
        "command": {"stage and flags": command},
        "version": {"icegrt_jax": __version__, "jax": jax.__version__, "jaxlib": importlib.metadata.version("jaxlib")},
        "workdir": _contents(workdir),
    }
    first, *others = meeting.exchange("the comparison of configs", mine)
    for i, other in enumerate(others, start=1):
        for what, values in first.items():
            keys = [k for k in sorted({*values, *other[what]}) if values.get(k) != other[what].get(k)]
            if keys:
                shown = "; ".join(f"{k} {values.get(k)!r} → {other[what].get(k)!r}" for k in keys[:8])
                raise UserError(
                    f"{meeting.named(i)} has another {what} than process 0 ({shown}); start every process with the "
                    "same command, config, versions and shared workdir."
                )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {key: leaf for name, value in tree.items()
            for key, leaf in _flat(value, f"{prefix}.{name}" if prefix else name).items()}  # fmt: skip


def _contents(workdir: pathlib.Path) -> dict[str, int]:
    """What decides how a run goes on, with sizes: config, data, finished stages and checkpoints."""
    files = [workdir / "config.json", *workdir.glob("data/*"), *workdir.glob("*/done.json")]
    sizes = {str(path.relative_to(workdir)): path.stat().st_size for path in files if path.is_file()}
    checkpoints = [path for path in workdir.glob("*/checkpoints/*") if path.name.isdigit()]
    return sizes | {str(path.relative_to(workdir)): 0 for path in checkpoints}


def tidy(workdir: pathlib.Path) -> None:
    """Removes what only the start needed, and the workdir where nothing else is in it."""
    shutil.rmtree(workdir / FOLDER, ignore_errors=True)
    with contextlib.suppress(OSError):
        workdir.rmdir()
