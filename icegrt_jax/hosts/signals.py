"""SIGTERM and Ctrl-C in a program whose files are whole at any moment: it ends at once, with a sentence.

So is it from the program's first line to its last (`of_program`), while it imports and while Python takes itself down.
Only a loop that holds something unsaved wants to be asked instead (`training.preemption`). Python runs a handler
between two of its own instructions, which the main thread may not come to for as long as the device computes, and an
exception raised there may be lost in whatever was running. So a thread hears the signals too, and ends the process.
Imports no JAX: it listens while that is imported.
"""

import contextlib
import os
import signal
import sys
import threading
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Asked:
    """Who is to be asked to end before the program ends: the first signal while it is in `asked_first` is its own."""

    def __init__(self):
        self.heard = 0  # signals, by the thread


# Of the process, as handlers are.
asked_first: list[Asked] = []  # innermost last
kept: list[int] = []  # by `kept_for_all`
_program = contextlib.ExitStack()  # of `of_program`
_ending = threading.Lock()


def sentence(signum: int, what: str) -> str:
    """What a program says that ends so."""
    return f"{signal.Signals(signum).name}: {what}; run the same command to continue."


@contextlib.contextmanager
def ends_at_once():
    """Within, the first SIGTERM or SIGINT ends the program with exit code 143 or 130, unless somebody is asked first.

    Nothing is undone on the way, as after a SIGKILL. In the main thread only; elsewhere it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    handlers = {signum: signal.signal(signum, lambda signum, frame: _end(signum)) for signum in SIGNALS}
    thread = threading.Thread(target=_listen, args=(reads,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(before)
        os.close(writes)  # which ends the thread
        thread.join()
        os.close(reads)


def of_program() -> None:
    """From here on `ends_at_once`, to the end of the process: called before anything that takes long to import."""
    _program.enter_context(ends_at_once())


def of_several() -> None:
    """Takes `of_program` back: of several processes of a run none ends without a word to the others."""
    _program.close()


def finished() -> None:
    """The program has done all it had to: a signal ends what is left of the process without anything being run for it.

    Python takes down threads and compiled programs then, in which a handler's exception would be lost or a crash.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL)


@contextlib.contextmanager
def kept_for_all():
    """Within, SIGTERM is put down in `kept`: of several processes of a run none ends by itself."""
    before = signal.signal(signal.SIGTERM, lambda signum, frame: kept.append(signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)  # None: not of Python's


def _listen(reads: int) -> None:
    while heard := os.read(reads, 1):
        if heard[0] not in SIGNALS:
            continue
        if asked_first:
            asked_first[-1].heard += 1
        if not asked_first or asked_first[-1].heard > 1:
            _end(heard[0])


def _end(signum: int) -> None:
    if not _ending.acquire(blocking=False):
        time.sleep(1)  # the other thread is about to end it; or this one, which has heard a second signal meanwhile
        return
    with contextlib.suppress(Exception):  # closed, or just being written to
        sys.stdout.flush()
    over_the_bar = "\r\x1b[K" if os.isatty(2) else ""
    os.write(2, f"{over_the_bar}{sentence(signum, 'what was saved is kept')}\n".encode())
    os._exit(128 + signum)
