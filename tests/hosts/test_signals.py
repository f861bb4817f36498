"""SIGTERM and Ctrl-C end a program at once, whatever its main thread is busy with, unless somebody is asked first."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from icegrt_jax.hosts import signals

ROOT = pathlib.Path(__file__).parents[2]
# Minutes within one call of C, in which Python runs no handler; as a compiled program that the device works on.
BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha512', b'', b'', 10**9)"


def start(*lines):
    code = "\n".join(["from icegrt_jax.hosts import signals", "print('begun', flush=True)", *lines])
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.3)
    return process


@pytest.mark.parametrize("signum, code, name", [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "SIGINT")])
def test_a_signal_ends_a_program_that_python_cannot_interrupt(signum, code, name):
    process = start("print('unflushed')", "with signals.ends_at_once():", f"    {BUSY}")
    process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "unflushed\n")
    assert err == f"{name}: what was saved is kept; run the same command to continue.\n"


def test_whoever_is_asked_first_gets_the_first_signal_and_the_second_ends_the_program():
    process = start(
        "import signal",
        "with signals.ends_at_once():",
        "    signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))",
        "    signals.asked_first.append(signals.Asked())",
        "    import time; time.sleep(0.5); time.sleep(0.5); time.sleep(0.5)",
        f"    {BUSY}",
    )
    process.terminate()
    assert process.stdout.readline() == "asked\n"
    time.sleep(2)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_a_program_that_is_still_importing_ends_without_a_traceback():
    process = start("with signals.ends_at_once():", "    while True:", "        import json.decoder as m, sys",
                    "        del sys.modules['json.decoder']")  # fmt: skip
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err.count("\n") == 1 and err.startswith("SIGINT: ")


# A config that sends the signal while it is loaded, before a stage is chosen or JAX imported.
SENDING = f"import os, signal\nos.kill(os.getpid(), signal.{{}})\n{BUSY}\n"


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_command_ends_with_a_sentence_before_its_stage_begins(tmp_path, name, code):
    (tmp_path / "config.py").write_text(SENDING.format(name))
    command = [
        sys.executable,
        "-m",
        "icegrt_jax",
        "sft",
        f"--config={tmp_path / 'config.py'}",
        f"--workdir={tmp_path / 'run'}",
    ]
    ended = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr == f"{name}: what was saved is kept; run the same command to continue.\n"
    assert not (tmp_path / "run").exists()


def test_what_is_left_of_a_finished_process_ends_without_a_handler():
    process = start(
        "signals.of_program(); signals.finished()", f"import atexit; atexit.register(lambda: exec({BUSY!r}))"
    )
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")


def test_a_run_of_several_processes_takes_the_handlers_of_the_program_back():
    before = [signal.getsignal(s) for s in signals.SIGNALS]
    signals.of_program()
    assert signal.getsignal(signal.SIGTERM) != before[0]
    signals.of_several()
    assert [signal.getsignal(s) for s in signals.SIGNALS] == before


def test_handlers_descriptors_and_threads_come_back():
    held = lambda: ([signal.getsignal(s) for s in signals.SIGNALS], len(os.listdir("/proc/self/fd")))
    before = held()
    for _ in range(3):
        with signals.ends_at_once():
            assert signal.getsignal(signal.SIGTERM) != before[0][0]
    assert held() == before
    assert signal.set_wakeup_fd(-1) == -1
