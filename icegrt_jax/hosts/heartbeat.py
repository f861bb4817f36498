"""Each process's sign of life, and the end of a run whose other processes are gone.

A process that waits inside a compiled program for one that was killed would wait until JAX aborts it, without a word
on where to look. A thread looks after the others meanwhile.
"""

import contextlib
import os
import pathlib
import threading
import time
from collections.abc import Callable

INTERVAL = 2.0  # seconds between two beats
PATIENCE = 60.0  # seconds of silence, at most
ROUNDS = 5  # beats that a living process does not miss, and after which one that has stopped is known to all


class Pulse:
    """Writes a new beat again and again, and calls `lost` once with those that are silent for long or have stopped.

    A beat is a new name and new content of a file that stays, for the reason that `rendezvous` gives. Silence is
    counted in rounds of this thread: while the shared folder itself hangs, no round ends.

    Args:
      stopped: whether a process has said that it stops. Those who wait for it in a compiled program hear of it here.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        index: int,
        count: int,
        patience: float,
        lost: Callable[[list[int]], None],
        stopped: Callable[[int], bool] = lambda process: False,
    ):
        self._folder, self._index, self._lost, self._has_stopped = folder, index, lost, stopped
        self._interval = min(INTERVAL, patience / ROUNDS)
        self._limits = {"silent": max(int(patience / self._interval), 1), "stopped": ROUNDS}
        self._rounds = {i: {"silent": 0, "stopped": 0} for i in range(count) if i != index}
        self._seen: dict[int, str] = {}
        self._round, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Pulse":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._ended.set()

    def silent_from_now(self) -> list[int]:
        """Those that give no sign of life for `ROUNDS` beats from now on."""
        before, until = {i: self._read(i) for i in self._rounds}, self._round + ROUNDS
        while self._round < until and self._thread.is_alive():
            time.sleep(self._interval / 4)
        return [i for i, seen in before.items() if self._read(i) == seen]

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            self._beat()
            for i, rounds in self._rounds.items():
                now = self._read(i)
                rounds["silent"] = rounds["silent"] + 1 if now == self._seen.get(i, "") else 0
                rounds["stopped"] += self._has_stopped(i)
                self._seen[i] = now
            over = lambda rounds: any(rounds[what] >= limit for what, limit in self._limits.items())
            lost = [i for i, rounds in self._rounds.items() if over(rounds)]
            if lost and not self._ended.is_set():
                self._lost(lost)
                return

    def _beat(self) -> None:
        self._round += 1
        with contextlib.suppress(OSError):
            (self._folder / f"pulse.{self._index}").write_text(str(self._round), encoding="utf-8")
            (self._folder / f"beat.{self._index}.{self._round}").touch()
            (self._folder / f"beat.{self._index}.{self._round - 1}").unlink(missing_ok=True)

    def _read(self, index: int) -> str:
        seen = ""
        with contextlib.suppress(OSError):
            seen += " ".join(sorted(x for x in os.listdir(self._folder) if x.startswith(f"beat.{index}.")))
            seen += " " + (self._folder / f"pulse.{index}").read_text(encoding="utf-8")
        return seen
