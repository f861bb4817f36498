"""The bar of a terminal: one line that fits its width, below the lines that stay."""

import sys
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from icegrt_jax import terminal

_BAR, _LEAST = 20, 6  # characters of the bar itself, where there is room and where there is none
_STYLE = "cyan"  # of a title


class Bar:
    """Drawn anew some times a second, by a thread, with what `row` says then.

    Args:
      stream: a terminal.
      row: gives title, share done, the texts that are left out from their end where they do not fit, the first of them
        last, and the text that stays.
    """

    def __init__(self, stream: TextIO, row: Callable[[], tuple[str, float, list[str], str]]):
        self._row, self._console = row, terminal.console(stream)
        self._spinner = Spinner("dots")
        self._live = Live(
            self, console=self._console, refresh_per_second=4, transient=True,
            redirect_stdout=terminal.is_live(sys.stdout), redirect_stderr=stream is sys.stderr,
        )  # fmt: skip
        self._live.start()

    def line(self, title: str, first: str, middle: list[str], last: str) -> None:
        """A line that stays; it is broken between words where even its first and last text do not fit."""
        text = terminal.fitted(first, middle, last, self._console.width - len(title) - 2)
        self._console.print(Text.assemble((title, _STYLE), "  ", text))

    def close(self) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        title, share, middle, last = self._row()
        width = options.max_width - 1  # the last column makes some terminals begin a new line
        room = width - len(title) - 5  # for the spinner and the gaps
        text = terminal.fitted("", middle, last, room - _LEAST)
        line = Table.grid(padding=(0, 1))
        size = max(min(_BAR, room - len(text)), _LEAST)
        bar = ProgressBar(total=1.0, completed=share, width=size, complete_style=_STYLE, finished_style=_STYLE)
        line.add_row(
            self._spinner, Text(title, style=_STYLE, no_wrap=True), bar, Text(text, no_wrap=True, overflow="crop")
        )
        yield from console.render(line, options.update(max_width=width, no_wrap=True))
