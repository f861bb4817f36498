"""Two runs in one workdir: the second is refused, and a crash leaves nothing to clear away."""

import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from icegrt_jax import cli
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import lock
from tests.commands.runs import QUICKSTART
from tests.stand_in import instead

ROOT = pathlib.Path(__file__).parents[2]
HOLD = """
import pathlib, sys, time
from icegrt_jax.hosts import lock
release = lock.hold(pathlib.Path(sys.argv[1]), "ppo")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds `tmp_path / "run"`."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_who_has_the_workdir(tmp_path, other):
    with pytest.raises(UserError) as error:
        lock.hold(tmp_path / "run", "sft")
    text = str(error.value)
    assert f"{tmp_path / 'run'} is in use by process {other.pid} on {socket.gethostname()} since 20" in text
    assert text.endswith("(icegrt ppo); wait until that has ended, stop it, or choose another --workdir.")


def test_who_only_looks_keeps_nobody_out(tmp_path, monkeypatch):
    """`icegrt status` has the lock shared for an instant."""
    (tmp_path / lock.FILE_NAME).touch()
    looking, pauses = open(tmp_path / lock.FILE_NAME, "rb"), []
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(lock, "time", instead(time, sleep=lambda seconds: pauses.append(seconds) or looking.close()))
    lock.hold(tmp_path, "ppo")()
    assert pauses == [lock.PAUSE]


def test_a_round_of_a_run_is_held_with_the_run(tmp_path, other):
    with pytest.raises(UserError, match=f"{tmp_path / 'run'} is in use by process {other.pid}"):
        lock.hold(tmp_path / "run" / "rounds" / "1", "ppo")
    assert not (tmp_path / "run" / "rounds").exists()
    other.kill()
    other.wait()
    lock.hold(tmp_path / "run" / "rounds" / "1", "ppo")()


def test_a_killed_process_leaves_the_workdir_free(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "run" / lock.FILE_NAME).exists()
    lock.hold(tmp_path / "run", "sft")()
    assert not (tmp_path / "run").exists(), "nothing has been written there"


def test_the_lock_is_released_and_taken_again_in_one_process(tmp_path):
    (tmp_path / "sft").mkdir()
    for _ in range(2):
        release = lock.hold(tmp_path, "sft")
        assert json.loads((tmp_path / lock.FILE_NAME).read_text())["pid"] == os.getpid()
        with pytest.raises(UserError, match="is in use by process"):
            lock.hold(tmp_path, "ppo")
        release()
        release()
    assert [path.name for path in tmp_path.iterdir()] == ["sft"]


def test_a_holder_that_has_not_yet_said_who_it_is_is_another_process(tmp_path, other):
    os.truncate(tmp_path / "run" / lock.FILE_NAME, 0)
    with pytest.raises(UserError, match="in use by another process; wait"):
        lock.hold(tmp_path / "run", "sft")


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot write .*taken.*; choose another --workdir."):
        lock.hold(tmp_path / "taken" / "run", "sft")


def test_where_files_cannot_be_locked_a_run_is_warned_and_goes_on(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock, "fcntl", instead(fcntl, flock=no_locks))
    lock.hold(tmp_path, "sft")()
    assert "cannot be locked (Operation not supported); start no second run there." in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["run", "pretrain", "sft", "reward", "ppo", "evaluate"])
def test_every_stage_that_writes_is_kept_out_before_it_has_written_anything(tmp_path, other, capsys, stage):
    assert cli.main([stage, QUICKSTART, f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "is in use by process" in error and error.count("\n") == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == [lock.FILE_NAME]


def test_a_report_can_be_made_while_a_stage_trains_and_changes_nothing_of_the_run(tmp_path, other, capsys):
    workdir = tmp_path / "run"
    assert cli.main(["report", QUICKSTART, f"--workdir={workdir}"]) in (0, 2)
    assert "in use" not in capsys.readouterr().err
    (workdir / "pretrain").mkdir()
    (workdir / "pretrain" / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "target_prob": 0.1}\n')
    (workdir / "config.json").unlink(missing_ok=True)
    config = cli.config_file.load_config(QUICKSTART.removeprefix("--config="))
    cli.config_file.save_resolved(config, workdir)
    before = (workdir / "config.json").read_bytes()
    assert cli.main(["report", QUICKSTART, f"--workdir={workdir}", "--config.evaluate.limit=1"]) == 0
    assert (workdir / "config.json").read_bytes() == before
    assert (workdir / lock.FILE_NAME).exists()


def test_a_refused_config_leaves_no_lock_behind(tmp_path, capsys):
    assert cli.main(["sft", QUICKSTART, f"--workdir={tmp_path / 'run'}", "--config.mesh.data=3"]) == 2
    assert not (tmp_path / "run").exists(), capsys.readouterr().err
