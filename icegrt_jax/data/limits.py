"""A limit of time and memory for a piece of Python that somebody else wrote, such as a chat template.

Jinja's sandbox keeps a template from files and code, not from looping for a year or writing a text of terabytes. A
thread looks at whoever is inside `limited` and raises `Exceeded` there; nothing is started, and nothing copied, for it.
It is raised between two steps of Python; that no single step asks for too much, the template is looked at for before
(`template.check`). A look never gives the interpreter's lock away: whoever doubles a text would do so once more each
time, and every call that reads a file gives it away.
"""

import contextlib
import ctypes
import functools
import os
import resource
import threading
import time
from collections.abc import Iterator

SECONDS = 10.0  # of one conversation
BYTES = 2**30  # by which the process may have grown meanwhile
AGAIN = 1.0  # seconds until it is raised once more, of which the first may have come where nothing can be raised
EVERY = 0.01  # seconds between two looks; a text that doubles is soon far beyond what it may be


class Exceeded(Exception):
    """What was run has taken more time, or memory, than it may."""


class _Watch:
    """Who is watched, and until when; one for the process."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ends: dict[int, tuple[float, int]] = {}  # of each thread inside, with how large the process may be
        self._size = 0  # of the process at the last look
        self._raised: dict[int, float] = {}  # when
        self._thread: threading.Thread | None = None

    def enter(self, seconds: float, most: int) -> None:
        with self._lock:
            if not self._wake.is_set():  # the last look is older than EVERY
                self._size = _size()
            self._ends[threading.get_ident()] = (time.monotonic() + seconds, self._size + most)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, daemon=True, name="limits")
                self._thread.start()
        self._wake.set()

    def leave(self) -> None:
        me = threading.get_ident()
        with self._lock:
            self._ends.pop(me, None)
            if me in self._raised:  # it may be on its way still
                del self._raised[me]
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), None)

    def _look(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(EVERY)
            with self._lock:
                if not self._ends:
                    self._wake.clear()
                    continue
                now, self._size = time.monotonic(), _size()
                for thread, (end, most) in self._ends.items():
                    over = now > end or self._size > most
                    if over if thread not in self._raised else now > self._raised[thread] + AGAIN:
                        self._raised[thread] = now
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Exceeded))


_libc = ctypes.PyDLL(None)  # which keeps the interpreter's lock
_libc.pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_longlong)
_libc.pread.restype = ctypes.c_ssize_t
_told = ctypes.create_string_buffer(256)
_watch = _Watch()
os.register_at_fork(after_in_child=_watch.reset)  # its thread is not there


@contextlib.contextmanager
def limited(seconds: float = SECONDS, most: int = BYTES) -> Iterator[None]:
    """Raises `Exceeded` in what is inside when it takes longer, or the process grows by more."""
    _watch.enter(seconds, most)
    try:
        yield
    finally:
        try:
            _watch.leave()
        except Exceeded:
            _watch.leave()
            raise


def _size() -> int:
    """Bytes of this process in memory, that of the parent never; 0 where the system does not tell."""
    told = _libc.pread(_statm(os.getpid()), _told, len(_told) - 1, 0)
    return int(_told.value.split()[1]) * resource.getpagesize() if told > 0 else 0


@functools.cache
def _statm(process: int) -> int:
    """The open file in which the system says how large this process is; -1: there is none."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
