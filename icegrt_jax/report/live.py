"""The report while a stage trains: written again every few minutes, and never the reason that a training stops."""

import pathlib
import time
from collections.abc import Callable, Sequence

from icegrt_jax.config.file import FILE_NAME
from icegrt_jax.hosts import sync
from icegrt_jax.report import build
from icegrt_jax.runs import loop
from icegrt_jax.runs.stage import Stage

LOOKS = 5.0  # seconds between two looks at how old the page is: a workdir may lie on a mounted bucket


class Live:
    """Writes the page of a run when it is older than so many minutes.

    The main process alone does, from what the stages have written: it takes no part in what the processes compute.

    Args:
      stages: gives those of a run.
    """

    def __init__(self, workdir: pathlib.Path, stages: Callable[[], Sequence[Stage]], minutes: float):
        self._workdir, self._stages, self._seconds = workdir, stages, 60 * minutes
        self._failed, self._looked = False, -LOOKS

    def begin(self, step: int | None) -> bool:
        return False

    def after(self, step: int, outcome: loop.Outcome, write: loop.Write) -> bool:
        if sync.is_main() and not self._failed and self._is_due():
            try:
                stages = self._stages()
                if build.has_something(self._workdir, stages):
                    build.build(self._workdir, stages)
            except Exception as error:
                self._failed = True
                what = f"{type(error).__name__}: {error}".splitlines()[0]
                print(f"warning: the report is not written while this stage trains ({what})", flush=True)
        return False

    def _is_due(self) -> bool:
        """Whether the page, or without one the run, is older than it may be; not looked at after every step."""
        if time.monotonic() - self._looked < min(LOOKS, self._seconds):
            return False
        self._looked = time.monotonic()
        for name in (pathlib.Path("report", "index.html"), FILE_NAME):
            try:
                return time.time() - (self._workdir / name).stat().st_mtime >= self._seconds
            except OSError:
                continue
        return False
