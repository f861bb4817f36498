"""One run at a time in a workdir: a lock that ends with the process that holds it, however that ends.

flock(2): the kernel releases it after a crash or a SIGKILL. An NFS server keeps it for all hosts. A mounted bucket may
keep it for each host alone, or know no locks; there two hosts are not kept apart.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from icegrt_jax.errors import UserError

ROUNDS = "rounds"  # the folder in a workdir in which each round has one
LOOKS, PAUSE = 5, 0.05  # times, and seconds between them: who looks at a lock has it shared for an instant
FILE_NAME = ".lock"  # in the workdir; says who holds it, which a crash leaves there and nobody believes


def hold(workdir: pathlib.Path, command: str) -> Callable[[], None]:
    """Holds the workdir until what is returned is called, or this process is gone.

    Raises:
      UserError: another process holds it, or the run whose round it is; which one is named.
    """
    path = workdir / FILE_NAME
    if workdir.parent.name == ROUNDS:
        _check_free(workdir.parents[1])
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
        os.truncate(file, 0)
        said = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        os.write(file, json.dumps(said | {"command": command}).encode())
    except BlockingIOError:
        raise _in_use(workdir) from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --workdir.") from error

    held: int | None = file

    def release():
        nonlocal held
        if held is not None:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is held: see _locked
                workdir.rmdir()  # where nothing has been written
            os.close(held)
            held = None

    return release


def holder(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Who holds a workdir, {"pid", "host", "since", "command"} or empty where that is not known; None: nobody."""
    path = workdir / FILE_NAME
    with contextlib.suppress(OSError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _said(path)
    return None


def _in_use(workdir: pathlib.Path) -> UserError:
    return UserError(
        f"{workdir} is in use by {named(_said(workdir / FILE_NAME))}; wait until that has ended, stop it, or choose "
        "another --workdir."
    )


def _check_free(workdir: pathlib.Path) -> None:
    """Refuses a workdir that another process holds; leaves it as it is."""
    if holder(workdir) is not None:
        raise _in_use(workdir)


def _locked(path: pathlib.Path) -> int:
    """A descriptor of the file, locked. BlockingIOError where another has it."""
    looks = 0
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            looks += 1
            if looks == LOOKS:
                raise
            time.sleep(PAUSE)
            continue
        except OSError as error:
            print(f"warning: {path} cannot be locked ({error.strerror}); start no second run there.", file=sys.stderr)
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file)):
                return file
        os.close(file)  # its last holder has removed it between our two calls


def named(said: Mapping[str, Any]) -> str:
    """A holder in words."""
    if not said:
        return "another process"
    return f"process {said['pid']} on {said['host']} since {said['since']} (icegrt {said['command']})"


def _said(path: pathlib.Path) -> dict[str, Any]:
    """What a lock file says of its holder; nothing where that is just being written."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return {name: said[name] for name in ("pid", "host", "since", "command")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
