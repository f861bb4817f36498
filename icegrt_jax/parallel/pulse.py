"""Each process's sign of life, and the end of a run whose other processes are gone.

A process that waits inside a compiled program for one that was killed would wait until JAX aborts it, without a word
on where to look. A thread looks after the others meanwhile.
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable

INTERVAL = 2.0  # seconds between two beats
PATIENCE = 60.0  # seconds of silence, at most


class Pulse:
    """Writes a new beat again and again, and calls `lost` once with those whose own has not changed for long.

    A beat is a new name and new content of a file that stays, for the reason that `meeting` gives. Silence is counted
    in rounds of this thread: while the shared folder itself hangs, no round ends.
    """

    def __init__(
        self, folder: pathlib.Path, index: int, count: int, patience: float, lost: Callable[[list[int]], None]
    ):
        self._folder, self._index, self._lost = folder, index, lost
        self._interval = min(INTERVAL, patience / 5)
        self._rounds = max(int(patience / self._interval), 1)
        self._silent = {i: 0 for i in range(count) if i != index}
        self._seen: dict[int, str] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Pulse":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        beat = 0
        while not self._stopped.wait(self._interval):
            beat += 1
            with contextlib.suppress(OSError):
                (self._folder / f"pulse.{self._index}").write_text(str(beat), encoding="utf-8")
                (self._folder / f"beat.{self._index}.{beat}").touch()
                (self._folder / f"beat.{self._index}.{beat - 1}").unlink(missing_ok=True)
            for i in self._silent:
                now = self._read(i)
                self._silent[i] = self._silent[i] + 1 if now == self._seen.get(i, "") else 0
                self._seen[i] = now
            silent = [i for i, rounds in self._silent.items() if rounds >= self._rounds]
            if silent and not self._stopped.is_set():
                self._lost(silent)
                return

    def _read(self, index: int) -> str:
        seen = ""
        with contextlib.suppress(OSError):
            seen += " ".join(sorted(x for x in os.listdir(self._folder) if x.startswith(f"beat.{index}.")))
            seen += " " + (self._folder / f"pulse.{index}").read_text(encoding="utf-8")
        return seen
