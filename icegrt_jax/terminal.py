"""Terminals, and what is none: where a bar and colours are drawn, and where plain lines are written.

A bar is for whoever looks: on a terminal, but not on one that cannot move its cursor (TERM=dumb), in CI, which keeps
all that is ever drawn, or in a notebook, whose `!` gives a terminal that erases nothing. rich honours NO_COLOR. Lines
on a terminal are broken between words.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.file_proxy import FileProxy


def is_live(stream: TextIO) -> bool:
    """Whether what is written there can be drawn over."""
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown") or _in_notebook():
        return False
    return os.environ.get("CI", "").lower() in ("", "0", "false")


def _in_notebook() -> bool:
    """Whether a cell has called: who starts a kernel sets the first, ipykernel the second, for a terminal nobody."""
    drawn_with = os.environ.get("MPLBACKEND", "")
    return "JPY_PARENT_PID" in os.environ or drawn_with.startswith(("module://matplotlib_inline", "module://ipykernel"))


class _Console(Console):
    """A console that leaves the cursor alone: a program that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class _Broken(FileProxy):
    """A stream whose lines are broken between words, above the bar where there is one."""

    def __init__(self, console: Console, stream: TextIO):
        super().__init__(console, stream)
        self.console = console


def console(stream: TextIO) -> Console:
    """What draws there; in plain text where it is no terminal to draw on."""
    if isinstance(stream, _Broken):
        return stream.console
    live = is_live(stream)
    return _Console(
        file=stream, force_terminal=live, force_jupyter=False, force_interactive=live, highlight=False, markup=False,
        emoji=False, no_color=None if live else True,
    )  # fmt: skip


@contextlib.contextmanager
def between_words() -> Iterator[None]:
    """Within, long lines on stdout and stderr are broken between words where these are terminals.

    Both draw with one console, which knows of the bar.
    """
    before = sys.stdout, sys.stderr
    if is_live(sys.stderr):
        drawn = console(sys.stderr)
        sys.stderr = _Broken(drawn, sys.stderr)
        if is_live(sys.stdout):
            sys.stdout = _Broken(drawn, sys.stdout)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def fitted(first: str, middle: list[str], last: str, width: int | None) -> str:
    """A line of parts; from the end of the middle as many are left out as it takes to fit into `width` characters.

    >>> fitted("ppo  3/10", ["score 0.1", "kl 2"], "8.0 s left", 35)
    'ppo  3/10  score 0.1  8.0 s left'
    """
    for kept in range(len(middle), -1, -1):
        line = "  ".join(filter(None, [first, *middle[:kept], last]))
        if width is None or len(line) <= width:
            break
    return line


def clock(seconds: float) -> str:
    """Returns 5.2 s, 3:07 or 2:03:09."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
