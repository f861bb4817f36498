"""How this process's memory is allocated, where programs run on the CPU.

XLA asks malloc for the temporaries of a program at each call and frees them after it. By default glibc gives such large
pieces back to the system, which hands them out again page by page: a seventh of the time of an update of SmolLM2-135M
(benchmarks/README.md). Kept, the memory is there for the next call.

The next call may not find it. Temporaries are aligned, for which glibc looks for 96 bytes more than it hands out, and
something small may have settled in those behind them; then the heap has a hole that the same temporaries just do not
fit into, and before glibc 2.39 one more after each of the first seven calls. So a thread watches how much of the
process is resident: where that is more than the programs use, by more than SLACK, what lies free is given back, while
the pages that its successor will need are still being touched. A loop that finds its memory again is left alone.
"""

import ctypes
import glob
import os
import sys
import threading
import time

# mallopt(3): parameter, value.
KEPT = (
    (-8, 1),  # M_ARENA_MAX: one heap for all threads; one of a thread's own never grows past 64 MB
    (-4, 0),  # M_MMAP_MAX: nothing from outside the heap
    (-1, -1),  # M_TRIM_THRESHOLD: never give the heap's end back
    (-2, 2**26),  # M_TOP_PAD: bytes by which the heap grows beyond what is asked
)
SLACK = 1 / 8  # of what is in use: so much may lie free beside it
LOOK_S = 0.02  # a program touches less than 100 MB between two looks
ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd")
_watches: list["Watch"] = []  # one, once the C library keeps what is freed


class _MallInfo2(ctypes.Structure):
    """mallinfo(3), glibc 2.33 or newer."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


class Watch:
    """Gives back what lies free where that is more than SLACK of the most that was in use at a time.

    limit: resident bytes that need no look; grows with what is in use.
    others: resident bytes that are not the heap's, such as libraries and compiled code, as far as known.
    """

    def __init__(self, libc: ctypes.CDLL):
        self._libc = libc
        self._libc.mallinfo2.restype = _MallInfo2
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self.limit, self.others = 0.0, 0

    def resident(self) -> int:
        """Bytes of the process that are in memory."""
        return int(os.pread(self._statm, 200, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def look(self) -> bool:
        """Gives back if there is too much; returns whether it did."""
        resident = self.resident()
        if resident <= self.limit:
            return False
        used = self._need()
        if resident <= self.limit:
            return False
        self._libc.malloc_trim(0)
        self.others = max(self.others, self.resident() - used)
        self._need()
        return True

    def _need(self) -> int:
        """Bytes of the heap that are in use; raises the limit to what they need."""
        info = self._libc.mallinfo2()
        used = info.uordblks + info.hblkhd
        self.limit = max(self.limit, (1 + SLACK) * (used + self.others))
        return used

    def give_back(self) -> None:
        """Gives everything back that lies free, and forgets what was needed."""
        self._libc.malloc_trim(0)
        self.limit = 0.0

    def run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            self.look()


def keep_freed_memory() -> bool:
    """Has malloc keep what is freed and finds use; in effect only before JAX starts its threads.

    Does nothing where programs run on an accelerator, where the C library is not glibc of at least 2.33, or where the
    environment's MALLOC_ variables say otherwise.

    Returns:
      Whether it has.
    """
    told = any(name.startswith("MALLOC_") for name in os.environ)
    if told or not sys.platform.startswith("linux") or not runs_on_cpu():
        return False
    if _watches:
        return True
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version, libc.mallinfo2  # noqa: B018 - glibc's own
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    kept = all(mallopt(parameter, value) for parameter, value in KEPT)
    if kept:
        _watches.append(Watch(libc))
        threading.Thread(target=_watches[0].run, name="heap", daemon=True).start()
    return kept


def give_back() -> None:
    """Gives what is free in the heap back to the system; where nothing is kept there is nothing to give.

    To be called at the end of a loop: other programs come after it.
    """
    for watch in _watches:
        watch.give_back()


def runs_on_cpu() -> bool:
    """Whether JAX will run programs on the CPU, as far as can be known before it is imported."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(glob.glob(pattern) for pattern in ACCELERATORS)
