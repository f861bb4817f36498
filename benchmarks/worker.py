"""A contender in a process of its own: it makes ready, waits, does one repetition when told, and answers.

    python -m benchmarks.worker MODULE:FUNCTION '{"setting": 1}'

Messages are JSON lines: "go" and "quit" come in on stdin, answers go out on what was stdout. What libraries print goes
to stderr. The function gets `turns` and its settings:

    def contender(turns, *, batch):
        ...                      # load, not timed
        while turns.wait():
            ...                  # one repetition
            turns.done({"generate": 1.2}, lengths=[64, 64])
"""

import importlib
import json
import os
import sys
import traceback

from benchmarks.noise import Watch, peak_bytes
from icegrt_jax.hosts.heap import keep_freed_memory


class Turns:
    """The worker's end of the pipe. A loop that is not ours calls `wait` and `done` from its callbacks."""

    def __init__(self, commands, answers):
        self.commands, self.answers = commands, answers
        self.watch = None
        self.count = 0

    def ready(self) -> None:
        self._answer({"ready": True})

    def wait(self) -> bool:
        """Blocks without using the CPU until it is this contender's turn; False when there are no more."""
        if not self.count:
            self.ready()
        line = self.commands.readline().strip()
        if line != "go":
            return False
        self.count += 1
        self.watch = Watch()
        return True

    def done(self, phases: dict[str, float], *, peak: int | None = None, **info) -> None:
        """Ends the repetition. phases: {name: seconds}; info: anything else that the tables or checks need."""
        seconds, noise = self.watch.read()
        peak = peak_bytes() if peak is None else peak
        self._answer({"seconds": seconds, "noise": noise, "phases": phases, "peak_bytes": peak, "info": info})

    def _answer(self, message: dict) -> None:
        self.answers.write(json.dumps(message) + "\n")
        self.answers.flush()


def main(target: str, settings: str) -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    turns = Turns(sys.stdin, answers)
    if not target.startswith("benchmarks.peers."):
        # Ours needs no torch; where it is installed, transformers would import it, with its memory and its threads.
        sys.modules["torch"] = None
        keep_freed_memory()  # as the command line does
    try:
        module, _, name = target.partition(":")
        getattr(importlib.import_module(module), name)(turns, **json.loads(settings))
    except Exception as error:
        traceback.print_exc()
        turns._answer({"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
