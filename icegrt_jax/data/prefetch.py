"""What the next step needs is made while the device works on this one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`make(step)`, that of the following step begun in a thread meanwhile.

        with Ahead(lambda step: batches[step], stop=100) as batch_of:
            for step in range(start, 100):
                batch = batch_of(step)

    `make` is a function of the step alone, so there is nothing to save: a resumed run asks for the step it is at.

    Args:
      make: host work; what it raises is raised where its step is asked for.
      stop: steps from here on are not begun.
    """

    def __init__(self, make: Callable[[int], T], stop: int):
        self._make, self._stop = make, stop
        self._begun: dict[int, Future[T]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")

    def __call__(self, step: int) -> T:
        begun = self._begun.pop(step, None)
        made = self._make(step) if begun is None else begun.result()
        if step + 1 < self._stop and step + 1 not in self._begun:
            self._begun[step + 1] = self._thread.submit(self._make, step + 1)
        return made

    def __enter__(self) -> "Ahead[T]":
        return self

    def __exit__(self, *exc_info) -> None:
        self._thread.shutdown(cancel_futures=True)
