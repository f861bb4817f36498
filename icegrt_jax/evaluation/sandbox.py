"""Programs that a model wrote, run in a process that can compute, and little else; docs/lm_eval.md says what it holds.

What is held is in `sandbox_child.py`, which gives it up before the program begins: files but Python's own and those of
one empty folder, the network, other processes and threads, permissions; time, memory and the size of files have limits.
"""

import functools
import json
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass

from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import sandbox_child

SECONDS, MEMORY, FILE_SIZE = 10, 2**30, 2**24  # of the processor; bytes
LONGER = 2.0  # times the seconds that a program may last, asleep or waiting for the processor
SAID = 256  # bytes of a verdict
# Where Python and the libraries that it loads lie. There is nobody's data in them.
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")


@dataclass(frozen=True)
class Ended:
    """passed: the program came to its end. why: it did not."""

    passed: bool
    why: str = ""


def run(program: str, *, seconds: int = SECONDS, memory: int = MEMORY, file_size: int = FILE_SIZE) -> Ended:
    """What becomes of a program; raises UserError where the system cannot hold it, and runs nothing then.

    Args:
      seconds: of the processor; it ends after twice as many by the clock.
      memory: bytes that it may have, Python's own among them.
      file_size: bytes of a file that it writes.
    """
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as verdict:
        job = {
            "program": program, "token": token, "folder": folder, "readable": _readable(), "seconds": seconds,
            "memory": memory, "file_size": file_size,
        }  # fmt: skip
        # A file as its output, whose size is limited: a pipe would be read for as long as it writes.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", sandbox_child.__file__], stdin=subprocess.PIPE, stdout=verdict,
            stderr=subprocess.DEVNULL, env={}, cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            process.communicate(json.dumps(job).encode(), timeout=LONGER * seconds)
        except subprocess.TimeoutExpired:
            return Ended(False, "took too long")
        finally:
            _end(process)
        verdict.seek(0)
        said = verdict.read(SAID).decode(errors="replace")
    if process.returncode == sandbox_child.UNAVAILABLE and said.startswith("unavailable "):
        raise UserError(f"programs that a model wrote are not run here: {said.removeprefix('unavailable ')}.")
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return Ended(False, "took too long" if name in ("SIGXCPU", "SIGKILL") else f"was ended by {name}")
    passed = said == f"passed {token}"
    return Ended(
        passed, "" if passed else said.removeprefix("failed ") if said.startswith("failed ") else "was left early"
    )


def _end(process: subprocess.Popen) -> None:
    """The process and all that has its group, if it is still there."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@functools.cache
def _readable() -> list[str]:
    """Files and folders that Python is read from."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}  # not those of a virtual environment
    own = [sysconfig.get_path(name, vars=base) for name in ("stdlib", "platstdlib")]
    shared = [str(pathlib.Path(sys.base_prefix) / name) for name in ("lib", "lib64") if sys.base_prefix != "/usr"]
    libraries = [path for path in shared if any(pathlib.Path(path).glob("libpython*"))]
    return [path for path in dict.fromkeys([*own, *libraries, *LIBRARIES]) if path and os.path.exists(path)]
