"""Where rows of metrics go: metrics.jsonl and TensorBoard, and trackers of the user's own."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from icegrt_jax import plugins
from icegrt_jax.config.options import LogOptions
from icegrt_jax.errors import UserError
from icegrt_jax.training.metrics import MetricsWriter, Writer, Writers

KEY = "log.writers"
CALLS = ("write", "flush", "close")  # of `Writer`


class Tracker:
    """A class of the user's as a writer; an exception in it is one sentence that names its file and line."""

    def __init__(self, spec: str, made: type, folder: pathlib.Path, *, resume_step: int | None):
        self._spec, self._file = spec, plugins.file_of(spec)
        self._writer = self._explained(lambda: made(folder, resume_step=resume_step))

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        self._explained(lambda: self._writer.write(step, metrics))

    def flush(self) -> None:
        self._explained(self._writer.flush)

    def close(self) -> None:
        self._explained(self._writer.close)

    def _explained(self, call: Callable[[], Any]) -> Any:
        return plugins.explained(f"{KEY}: {self._spec!r}", call, self._file)


def writers(log: LogOptions) -> tuple[Callable[..., Writer], ...]:
    """What a loop makes its writers with; the user's files are loaded here, before anything is trained."""
    return (MetricsWriter, *(functools.partial(Tracker, spec, _loaded(spec)) for spec in log.writers))


def tell(log: LogOptions, folder: pathlib.Path, metrics: Mapping[str, Any]) -> None:
    """Gives the writers the numbers of a stage that has no steps."""
    with Writers(make(folder, resume_step=None) for make in writers(log)) as all_writers:
        all_writers.write(0, dict(metrics))


def _loaded(spec: str) -> type:
    made = plugins.load(KEY, spec)
    missing = [name for name in CALLS if not callable(getattr(made, name, None))]
    if not isinstance(made, type) or missing:
        what = f"has no {missing[0]}" if isinstance(made, type) else "is no class"
        raise UserError(
            f"{KEY}={spec!r}: {spec.rpartition(':')[2]} {what}; expected a class made with (folder, *, resume_step) "
            "that has write(step, metrics), flush() and close()."
        )
    return made
