"""How busy the machine was with other things, from /proc/stat; None where there is none."""

import os
import pathlib
import time

STAT = pathlib.Path("/proc/stat")
STATUS = pathlib.Path("/proc/self/status")


def machine_seconds(text: str, ticks: int) -> tuple[float, float]:
    """Busy and stolen CPU seconds of all cores since the machine started, of the text of /proc/stat."""
    user, nice, system, _, _, irq, softirq, stolen = map(int, text.split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq) / ticks, stolen / ticks


class Watch:
    """Measures from its creation on; all threads of this process count as its own work."""

    def __init__(self):
        self.machine = self._machine()
        self.own = time.process_time()
        self.start = time.perf_counter()

    @staticmethod
    def _machine() -> tuple[float, float] | None:
        return machine_seconds(STAT.read_text(), os.sysconf("SC_CLK_TCK")) if STAT.is_file() else None

    def read(self) -> tuple[float, float | None]:
        """Seconds since the start, and noise: cores that others used or the host took away meanwhile."""
        seconds = time.perf_counter() - self.start
        own, now = time.process_time() - self.own, self._machine()
        if now is None:
            return seconds, None
        busy, stolen = (after - before for after, before in zip(now, self.machine))
        return seconds, max(0.0, busy - own + stolen) / max(seconds, 1e-9)


def peak_bytes() -> int | None:
    """Largest resident set of this process so far. Not getrusage: that remembers the parent's across exec."""
    if not STATUS.is_file():
        return None
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
