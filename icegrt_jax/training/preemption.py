"""Stopping politely: a signal lets the step finish, the state be saved and the program end.

    with Preemption() as preemption:
        for step in range(start + 1, config.steps + 1):
            state, metrics = update(state, next(batches))
            if preemption.reached(step):
                checkpoints.save(step, state)
                checkpoints.wait()
                raise Preempted(step, preemption.signum)

The same command then goes on from that checkpoint.
"""

import itertools
import signal
import sys

import jax
from jax.experimental import multihost_utils

_calls = itertools.count(1)  # of this process, in all stages


class Preempted(SystemExit):
    """Ends the program after a stop that was asked for; the state is saved.

    The exit code is the shell's for a death by that signal, 128 + its number
    (143 for SIGTERM), so that a scheduler sees a run to be continued, not a
    finished one.
    """

    def __init__(self, step: int, signum: int = signal.SIGTERM):
        super().__init__(128 + signum)
        self.step = step
        self.signum = signum

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name
        return f"{name}: saved at step {self.step}; run the same command to continue."


class Preemption:
    """Turns the first SIGTERM or SIGINT into a request; the second one acts as usual.

    In a run of several processes JAX listens for SIGTERM itself, whichever host it
    reaches, and all hosts agree on the step to stop at.
    """

    def __init__(self):
        self.signum: int = signal.SIGTERM
        self.requested = False
        self._previous = {}

    def __enter__(self) -> "Preemption":
        # JAX's own SIGTERM listener must stay where it is: ours would replace it.
        signals = [signal.SIGTERM, signal.SIGINT] if jax.process_count() == 1 else []
        self._previous = {s: signal.signal(s, self._on_signal) for s in signals}
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}
        if isinstance(error, Preempted):
            print(error, file=sys.stderr)  # Python ends on a SystemExit without a word

    def reached(self, step: int) -> bool:
        """Returns whether to save and stop after `step`, the same on every host.

        Call it once per step, with steps that grow.
        """
        if jax.process_count() > 1:
            # Hosts agree on a number one of these calls is to come to; steps begin anew with every stage.
            return multihost_utils.reached_preemption_sync_point(next(_calls))
        return self.requested

    def _on_signal(self, signum: int, frame) -> None:
        self.signum = signum
        self.requested = True
        signal.signal(signum, self._previous[signum])
