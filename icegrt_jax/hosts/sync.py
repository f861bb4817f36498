"""What several processes of one run have to agree on; with one process everything here is free.

Process 0 is the main one: it alone prints and writes, except for checkpoints, which all write. What it has written
is there for the others after `barrier`. Every process makes the same calls in the same order.
"""

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from icegrt_jax.hosts.rendezvous import Meeting

T = TypeVar("T")
# One for the process, as JAX's own client is: set once by `start.meet`, before any stage begins.
_meetings: list[Meeting] = []


def open_meeting(meeting: Meeting) -> None:
    """Lets the functions below meet there."""
    _meetings.append(meeting)


def is_main() -> bool:
    """Whether this process prints and writes."""
    return not _meetings or _meetings[-1].index == 0


def exchange(what: str, value: Any = None, timeout: float | None = None) -> list[Any]:
    """The JSON value of every process, in their order; they come within `timeout` seconds, by default the run's own."""
    return _meetings[-1].exchange(what, value, timeout=timeout) if _meetings else [value]


def barrier(what: str) -> None:
    """Returns when every process has come here; after the time limit names those that have not."""
    exchange(what)


def from_main(what: str, make: Callable[[], T], timeout: float | None = None) -> T:
    """What `make` gives in the main process (JSON), in all of them; the others wait for it, see `exchange`."""
    return exchange(what, make() if is_main() else None, timeout)[0]


def main_first(path: pathlib.Path, write: Callable[[], object]) -> None:
    """Lets the main process write `path`; the others go on when they see it."""
    if is_main():
        write()
    barrier(f"{path} is written")
    if _meetings:
        # A shared folder may show a host for some seconds that a file is not there which it has looked for before.
        _meetings[-1].wait_for(path)


def fetch(tree: T) -> T:
    """The arrays of a tree on the host, whole in every process, wherever their parts are."""

    def whole(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))
