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

import contextlib
import functools
import signal
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from icegrt_jax.hosts import signals, sync


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

    In a run of several processes a SIGTERM to any of them is kept (`signals.kept_for_all`), and all of them stop after
    the same step, the next one or the one after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signum: int = signal.SIGTERM
        self.requested = False
        self._told = False
        self._previous: dict[int, Any] = {}
        self._kept = contextlib.ExitStack()
        self._asked_before: jax.Array | None = None  # whether any process had been asked at the last look

    def __enter__(self) -> "Preemption":
        signals.asked_first.append(self)
        if jax.process_count() > 1:
            self._kept.enter_context(signals.kept_for_all())
        else:
            self._previous = {s: signal.signal(s, self._on_signal) for s in signals.SIGNALS}
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}
        self._kept.close()
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
            # Of the look before: its answer is there by now, and nobody waits for the step under way.
            before, self._asked_before = self._asked_before, _any_process(bool(signals.kept))
            return before is not None and bool(jax.device_get(before))
        self._told = self.requested
        return self._told

    def _on_signal(self, signum: int, frame) -> None:
        self.signum = signum
        self.requested = True
        signal.signal(signum, self._previous[signum])


def stop_if_asked() -> None:
    """Ends a run of several processes here if one of them has been asked to; a single one has ended at once by then.

    To be called by every process, in what may take long. Within a `Preemption` it does nothing: what has been learned
    is not saved while a watcher of a loop samples or measures, and the loop stops by itself once the step is done.
    """
    if (
        jax.process_count() > 1
        and not signals.asked_first
        and any(sync.exchange("whether to stop", bool(signals.kept)))
    ):
        stop = Preempted(None)
        print(stop, file=sys.stderr)
        raise stop


def asked() -> bool:
    """Whether the loop under way is to stop, in every process if in one: for a step that can still be left.

    To be called by every process, each time.
    """
    return any(sync.exchange("whether to leave a step", asked_here()))


def asked_here() -> bool:
    """As `asked`, of this process alone; without a loop nobody is."""
    return any(one.requested or bool(signals.kept) for one in signals.asked_first if isinstance(one, Preemption))


def _any_process(flag: bool) -> jax.Array:
    """bool[], whether it is True in any process; computed behind what has been given to the devices."""
    each, one = _over_all_devices()
    flags = np.full(jax.local_device_count(), flag)
    return one(jax.make_array_from_process_local_data(each, flags))


@functools.cache
def _over_all_devices():
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    return NamedSharding(mesh, P("devices")), jax.jit(jnp.any, out_shardings=NamedSharding(mesh, P()))
