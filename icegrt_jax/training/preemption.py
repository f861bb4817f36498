"""Stopping politely: a signal lets the step finish, the state be saved and the program end.

    with Preemption() as preemption:
        for step in range(start + 1, config.steps + 1):
            state, metrics = update(state, next(batches))
            if preemption.reached(step):
                checkpoints.save(step, state)
                checkpoints.wait()
                raise Preempted(step, preemption.signum)

The same command then goes on from that checkpoint. What the loop leaves is to be saved before the `with` ends, where a
signal ends the program that came too late for `reached`. Outside of such loops one ends it at once (`signals.py`).
"""

import itertools
import signal
import sys

import jax
from jax.experimental import multihost_utils

from icegrt_jax import signals

_calls = itertools.count(1)  # of this process, in all stages


class Preempted(SystemExit):
    """Ends the program after a stop that was asked for; the state is saved.

    The exit code is the shell's for a death by that signal, 128 + its number
    (143 for SIGTERM), so that a scheduler sees a run to be continued, not a
    finished one.

    Args:
      step: of the state that was saved; None where it was the last one.
    """

    def __init__(self, step: int | None, signum: int = signal.SIGTERM):
        super().__init__(128 + signum)
        self.step = step
        self.signum = signum

    def __str__(self) -> str:
        what = "what was finished is saved" if self.step is None else f"saved at step {self.step}"
        return signals.sentence(self.signum, what)


class Preemption(signals.Asked):
    """Turns the first SIGTERM or SIGINT into a request; the second one acts as usual.

    In a run of several processes JAX listens for SIGTERM itself, whichever host it
    reaches, and all hosts agree on the step to stop at.
    """

    def __init__(self):
        super().__init__()
        self.signum: int = signal.SIGTERM
        self.requested = False
        self._told = False
        self._previous = {}

    def __enter__(self) -> "Preemption":
        # JAX's own SIGTERM listener must stay where it is: ours would replace it.
        listened = signals.SIGNALS if jax.process_count() == 1 else ()
        signals.asked_first.append(self)
        self._previous = {s: signal.signal(s, self._on_signal) for s in listened}
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}
        signals.asked_first.remove(self)
        missed = Preempted(None, self.signum) if self.requested and not self._told and error is None else None
        if isinstance(missed or error, Preempted):
            print(missed or error, file=sys.stderr)  # Python ends on a SystemExit without a word
        if missed:
            raise missed

    def reached(self, step: int) -> bool:
        """Returns whether to save and stop after `step`, the same on every host.

        Call it once per step, with steps that grow.
        """
        if jax.process_count() > 1:
            return _agreed()
        self._told = self.requested
        return self._told

    def _on_signal(self, signum: int, frame) -> None:
        self.signum = signum
        self.requested = True
        signal.signal(signum, self._previous[signum])


def stop_if_asked() -> None:
    """Ends a run of several processes here if one of them has been asked to; a single one has ended at once by then.

    To be called by every process, where nothing is unsaved.
    """
    if jax.process_count() > 1 and _agreed():
        stop = Preempted(None)
        print(stop, file=sys.stderr)
        raise stop


def _agreed() -> bool:
    # Hosts agree on a number one of these calls is to come to; steps begin anew with every stage.
    return multihost_utils.reached_preemption_sync_point(next(_calls))
