"""Where the processes of a run meet: small files in a folder of the workdir, which all of them see.

A compiled program cannot say which process it waits for. Files can: each process puts down its own, and after the
time limit those that are not there are named. Knows nothing of JAX.

Shared folders show news late, each in its own way: NFS remembers for up to a minute what a folder does not hold, but
reads a known file anew; a mounted bucket remembers a file's content, but lists a folder anew. So everything is said
twice, by a new name and in a file that is always there.
"""

import contextlib
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from icegrt_jax.errors import UserError
from icegrt_jax.files import read_json, write_json_atomic
from icegrt_jax.hosts.heartbeat import Pulse

POLL = (0.01, 0.5)  # seconds between two looks, at first and at most
CONTINUE = "see its own log; the same command on every host continues from the last checkpoint"
STOPPED, LEFT = "stopped", "left"  # what is said last
GRACE = 20.0  # seconds in which the others leave when one has


class HostError(UserError):
    """The run cannot go on because of another process: it is missing, or it has stopped."""


class Meeting:
    """The processes of one start of a run.

    Every process calls `exchange` the same number of times, in the same order.

    Args:
      folder: of this start alone, seen by all processes.
      index: which process this is, of `count`.
      timeout: seconds that others are waited for.
    """

    def __init__(self, folder: pathlib.Path, index: int, count: int, timeout: float):
        self.index, self.count, self.timeout = index, count, timeout
        self._folder, self._calls = folder, 0
        self._hosts: dict[int, str] = {}
        self._said: dict[str, Any] = {"call": 0}
        folder.mkdir(parents=True, exist_ok=True)
        self._say()

    def introduce(self, hosts: Sequence[str]) -> None:
        """Keeps the host of each process, for messages."""
        self._hosts = dict(enumerate(hosts))

    def watch(self, patience: float, lost: Callable[[str], None]) -> Pulse:
        """Calls `lost`, from a thread, with a sentence on those silent for `patience` seconds, or that have stopped."""
        stopped = lambda i: self._note(i) is not None
        say = lambda processes: lost(self.why(processes))
        return Pulse(self._folder, self.index, self.count, patience, say, stopped).start()

    def why(self, lost: Sequence[int]) -> str:
        """What is known of processes that do not answer any more."""
        notes = [f"{self.named(i)} stopped: {note}" for i in lost if (note := self._note(i)) is not None]
        return notes[0] if notes else f"no sign of life from {self.named(*lost)}; {CONTINUE}."

    def named(self, *processes: int) -> str:
        """`process 1 (host-b)`, several joined by commas."""
        return ", ".join(f"process {i} ({self._hosts[i]})" if i in self._hosts else f"process {i}" for i in processes)

    def exchange(self, what: str, value: Any = None, *, timeout: float | None = None, hint: str = "") -> list[Any]:
        """What each process brought, JSON; a barrier where it is None.

        Raises:
          HostError: one has stopped with an error, or has not come within `timeout` (by default the run's own).
        """
        self._calls += 1
        limit = self.timeout if timeout is None else timeout
        write_json_atomic(self._file(self._calls, self.index), value)
        self._say(call=self._calls)
        missing = self._wait(self._calls, limit)
        if missing:
            verb = "has" if len(missing) == 1 else "have"
            raise HostError(
                f"{self.named(*missing)} {verb} not come to '{what}' within {limit:g} s; {hint or CONTINUE}."
            )
        values = [read_json(self._file(self._calls, i)) for i in range(self.count)]
        # Whoever came here has read what was exchanged before the last time.
        self._file(self._calls - 2, self.index).unlink(missing_ok=True)
        return values

    def wait_for(self, path: pathlib.Path) -> None:
        """Returns when this process sees a file that another has written."""
        until = time.monotonic() + self.timeout
        while not path.exists():
            if time.monotonic() > until:
                raise HostError(
                    f"{self.named(self.index)} does not see {path}; the workdir must be a folder that all hosts share."
                )
            time.sleep(POLL[0])

    def leave(self, sentence: str | None = None) -> None:
        """Tells the others that this process goes, and with a sentence that it stops and why.

        The folder may be cleared away when all have left.
        """
        if sentence is not None:
            write_json_atomic(self._file(STOPPED, self.index), sentence)
            self._say(**{STOPPED: sentence})
        write_json_atomic(self._file(LEFT, self.index), None)  # the last word: the folder may be gone after it

    def wait_until_left(self, grace: float = GRACE) -> None:
        """Returns when all others have left too, or are given up."""
        until = time.monotonic() + grace
        while self._absent(LEFT) and time.monotonic() < until:
            time.sleep(POLL[0])

    def clear(self) -> None:
        """Removes the folder, and the one of all starts where it was the only one."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._folder.parent.rmdir()

    def _wait(self, call: int, limit: float) -> list[int]:
        """Those who have not come to `call` when the limit is over; HostError once one of them has left a note."""
        until, pause = time.monotonic() + limit, POLL[0]
        while missing := self._absent(call):
            for i in missing:
                if (note := self._note(i)) is not None:
                    raise HostError(f"{self.named(i)} stopped: {note}")
            if time.monotonic() > until:
                return missing
            time.sleep(pause)
            pause = min(1.5 * pause, POLL[1])
        return []

    def _absent(self, call: int | str) -> list[int]:
        """Who has not come to a call, or has not left."""
        names = set(os.listdir(self._folder))
        came = lambda said: call != LEFT and said.get("call", 0) >= call
        return [i for i in range(self.count) if self._file(call, i).name not in names and not came(self._heard(i))]

    def _file(self, call: int | str, index: int) -> pathlib.Path:
        return self._folder / f"{call}.{index}"

    def _say(self, **news: Any) -> None:
        self._said |= news
        write_json_atomic(self._folder / f"says.{self.index}", self._said)

    def _heard(self, index: int) -> dict[str, Any]:
        try:
            return read_json(self._folder / f"says.{index}")
        except (OSError, ValueError):
            return {}

    def _note(self, index: int) -> str | None:
        file = self._file(STOPPED, index)
        try:
            return read_json(file) if file.name in os.listdir(self._folder) else self._heard(index).get(STOPPED)
        except FileNotFoundError:  # cleared away: all have left
            return None
