"""A run of several processes, from their start to an end that all of them take part in or hear of."""

import functools
import os
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax

from icegrt_jax.errors import UserError
from icegrt_jax.hosts import signals
from icegrt_jax.hosts.heartbeat import PATIENCE, Pulse
from icegrt_jax.hosts.launch import Launch, Start, alone
from icegrt_jax.hosts.rendezvous import HostError, Meeting
from icegrt_jax.hosts.start import compare, joining, meet, tidy

LATER = 60  # seconds by which JAX's own limits come after ours, which say more
LOST = 1  # exit code of a run that lost a process


def run(
    launch: Launch,
    found: str | None,
    config: str,
    workdir: pathlib.Path,
    command: list[Any],
    start: Start,
) -> None:
    """Runs a command in this process, which may be one of several that run it together.

    None of several returns with an error: it ends, because an orderly end would wait for all the others.

    Args:
      found: the launcher, None where the flags say it.
    """
    with joining(workdir, launch.num_processes, launch.process_id, launch.timeout, _give_up) as leave:
        _initialize(launch, found)
    if jax.process_count() == 1:
        leave()
        return alone(start)
    signals.of_several()
    meeting, pulse, leaving = None, None, None
    release, undo, in_use = None, lambda: None, None
    try:
        if jax.process_index() == 0 and start.hold:
            try:
                release = start.hold()
            except UserError as error:
                in_use = error  # said once all can hear it
        meeting = meet(workdir, launch.timeout, clear=release is not None)
        leave()
        pulse = meeting.watch(_patience(launch), functools.partial(_lost, meeting))
        if in_use is not None:
            raise in_use
        compare(meeting, config, workdir, command)
        if jax.process_index():
            sys.stdout = open(os.devnull, "w", encoding="utf-8")
        else:
            undo = start.prepare()
        meeting.exchange("the first file of the run")
        try:
            with signals.kept_for_all():
                start.main()
        except SystemExit as agreed:  # of all processes, after a step
            leaving = agreed
        meeting.exchange("the end")
        pulse.stop()
        meeting.leave()
        if meeting.index == 0:
            meeting.wait_until_left()  # some may still be reading
            _clear(meeting, workdir, release)
    except BaseException as error:
        _stop(error, meeting, pulse, workdir, release, undo)
    if leaving is not None:
        raise leaving


def _clear(meeting: Meeting, workdir: pathlib.Path, release: Callable[[], None] | None) -> None:
    """Removes what the start needed; `release`: lets other runs into the workdir, None where one may be in it."""
    if release is None:
        return meeting.clear()
    tidy(workdir)
    release()


def _patience(launch: Launch) -> float:
    """Seconds of silence after which a process counts as lost."""
    return min(PATIENCE, launch.timeout)


def _give_up(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    _end(LOST)


def _lost(meeting: Meeting, sentence: str) -> None:
    """Called beside a main thread that may wait for ever."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    meeting.leave(sentence)
    if meeting.index == 0:
        meeting.wait_until_left()  # JAX's coordinator goes with this process
    _end(LOST)


def _initialize(launch: Launch, found: str | None) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # read where there are CPUs only
    # JAX's own agreement on a step to stop at is by numbers that Orbax gives it too, others than ours.
    jax.config.update("jax_enable_preemption_service", False)
    limits = {
        "initialization_timeout": round(launch.timeout) + LATER,
        "heartbeat_timeout_seconds": round(_patience(launch)) + LATER,
        "shutdown_timeout_seconds": round(launch.timeout),
    }
    if launch.num_processes:
        jax.distributed.initialize(launch.coordinator, launch.num_processes, launch.process_id, **limits)
        return
    try:
        jax.distributed.initialize(cluster_detection_method="mpi4py" if found == "mpi4py" else None, **limits)
    except (ValueError, RuntimeError) as error:
        if found == "tpu" and isinstance(error, ValueError):
            return  # a TPU VM by itself
        raise UserError(
            f"started by {found}, but JAX cannot tell the processes from it ({' '.join(str(error).split())}); give "
            "--coordinator, --num-processes and --process-id, or --distributed=off for one process."
        ) from error


def _stop(
    error: BaseException,
    meeting: Meeting | None,
    pulse: Pulse | None,
    workdir: pathlib.Path,
    release: Callable[[], None] | None,
    undo: Callable[[], None],
) -> None:
    """Says why, tells the others, and ends the process."""
    who, code, lost = f"process {jax.process_index()}", LOST, ""
    # A ValueError of its own where a program fails as it is called, which small ones do on CPUs.
    failed = isinstance(error, jax.errors.JaxRuntimeError) or type(error) is ValueError
    if failed and pulse is not None and meeting is not None and (silent := pulse.silent_from_now()):
        lost = meeting.why(silent)  # a collective has failed because somebody is gone
    if pulse is not None:
        pulse.stop()
    if isinstance(error, HostError) or lost:
        sentence = f"error: {lost or error}"
    elif isinstance(error, UserError):
        sentence, code = f"error: {who}: {error}", 2
    elif isinstance(error, KeyboardInterrupt):
        sentence, code = f"{who}: interrupted; the same command continues from the last checkpoint", 130
    else:
        sentence = "".join(traceback.format_exception(error)) + who
    print(sentence, file=sys.stderr, flush=True)
    if meeting is not None:
        meeting.leave("interrupted" if code == 130 else " ".join((lost or str(error) or repr(error)).split())[:400])
        if meeting.index == 0:
            # With process 0 goes JAX's coordinator, which would abort the others in the middle of their sentence.
            meeting.wait_until_left()
            _clear(meeting, workdir, release)
            if isinstance(error, UserError):
                undo()
    _end(code)


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
