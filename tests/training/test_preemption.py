"""Preemption: a signal ends the step, not the program in the middle of it."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.training.preemption import Preempted, Preemption, stop_if_asked

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request_and_the_handlers_come_back(signum):
    before = signal.getsignal(signum)
    with Preemption() as preemption:
        assert not preemption.reached(1)
        signal.raise_signal(signum)
        assert preemption.requested and preemption.reached(2)
        assert preemption.signum == signum
        assert signal.getsignal(signum) == before  # so a second one acts as usual
    assert signal.getsignal(signum) == before


def test_a_second_interrupt_acts_at_once():
    with pytest.raises(KeyboardInterrupt), Preemption():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


LOOP = """
import sys, time
from icegrt_jax.errors import UserError
from icegrt_jax.training.preemption import Preempted, Preemption

with Preemption() as preemption:
    for step in range(1, 500):
        print(step, flush=True)
        time.sleep(0.02)
        if preemption.reached(step):
            raise Preempted(step, preemption.signum)
"""


def start(*args, code=LOOP):
    pipe = subprocess.PIPE
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *args], env=env, stdout=pipe, stderr=pipe, text=True)


def test_a_terminated_program_says_where_it_stopped_and_how_to_go_on():
    process = start()
    process.stdout.readline()
    process.terminate()
    out, err = process.communicate(timeout=60)
    last = out.split()[-1] if out else "1"
    assert process.returncode == 143
    assert err == f"SIGTERM: saved at step {last}; run the same command to continue.\n"


def test_preempted_is_not_caught_as_an_error():
    with pytest.raises(SystemExit) as stop:
        try:
            raise Preempted(3, signal.SIGINT)
        except Exception:  # noqa: B902
            pytest.fail("a broad except caught it")
    assert stop.value.code == 130
    assert str(stop.value).startswith("SIGINT: saved at step 3")


JOIN = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("127.0.0.1:" + sys.argv[1], 2, int(sys.argv[2]))
"""


@pytest.mark.slow
def test_all_processes_stop_at_one_step_when_one_is_terminated():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [start(port, str(i), code=JOIN + LOOP) for i in range(2)]
    for process in processes:
        process.stdout.readline()
    processes[1].terminate()
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143]
    last_lines = {error.splitlines()[-1] for error in errors}
    assert len(last_lines) == 1 and last_lines.pop().startswith("SIGTERM: saved at step ")


def test_a_signal_after_the_last_look_ends_the_program_where_the_loop_ends(capsys):
    with pytest.raises(Preempted) as stop, Preemption() as preemption:
        assert not preemption.reached(6)
        signal.raise_signal(signal.SIGTERM)  # while the last state is saved
    assert stop.value.code == 143
    assert capsys.readouterr().err == "SIGTERM: what was finished is saved; run the same command to continue.\n"


def test_what_is_measured_within_a_loop_of_several_processes_ends_nothing_that_is_unsaved(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(sync, "exchange", lambda what, asked: [False, True])
    with Preemption():
        stop_if_asked()
    with pytest.raises(Preempted):
        stop_if_asked()
    assert capsys.readouterr().err.startswith("SIGTERM: what was finished is saved")


def test_an_error_is_not_hidden_by_a_signal_that_came_with_it():
    with pytest.raises(UserError, match="the disk is full"), Preemption():
        signal.raise_signal(signal.SIGTERM)
        raise UserError("the disk is full")
