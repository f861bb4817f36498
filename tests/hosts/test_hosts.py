"""Real processes over loopback: the numbers of one, the loss of one, and going on with another number of them."""

import os
import re
import shutil
import signal
import socket

import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.hosts import lock
from icegrt_jax.training.metrics import read_metrics
from tests.commands.runs import begin, command, copy_parts, one_device, run

LIMIT = 30  # seconds that one waits for another


def start(stage, workdir, count, *, stop=None, limit=LIMIT, last=None, **keys):
    """The command as so many processes of one device.

    Args:
      stop: (process, stage, step, signal).
      last: keys of the config that the last process has otherwise; `keys` those of all.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # In the workdir's own cache: one process may look for a program that another one is just writing.
    environment = {name: value for name, value in one_device().items() if name != "JAX_COMPILATION_CACHE_DIR"}
    started = []
    for i in range(count):
        process = [f"--coordinator=127.0.0.1:{port}", f"--num-processes={count}", f"--process-id={i}"]
        more = {**keys, **((last or {}) if i == count - 1 else {})}
        arguments = command(stage, workdir, *process, f"--host-timeout={limit}", **more)
        started.append(begin(arguments, stop=stop[1:] if stop and stop[0] == i else None, env=environment))
    return started


def ends(started):
    """Exit codes, what was printed and what was said on stderr, of each process."""
    said = [process.communicate() for process in started]
    return [process.returncode for process in started], [out for out, _ in said], [err for _, err in said]


def same(one, other, name):
    return (one / name).read_bytes() == (other / name).read_bytes()


def assert_same_numbers(workdir, whole, *stages):
    """Metrics to 1e-3 of their size: float32 sums in another order.

    The ranking loss does not see a constant in all scores. What moves it is rounding, of which Adam makes whole steps.
    """
    tolerances = {"score": 0.02, "score_raw": 0.02}
    for stage in stages:
        rows, expected = (read_metrics(folder / stage / "metrics.jsonl") for folder in (workdir, whole))
        assert [row.keys() for row in rows] == [row.keys() for row in expected], stage
        for row, wanted in zip(rows, expected, strict=True):
            for name in row:
                np.testing.assert_allclose(
                    row[name], wanted[name], rtol=1e-3, atol=tolerances.get(name, 1e-3), err_msg=f"{stage} {name}"
                )


@pytest.mark.slow
def test_a_run_of_two_processes_that_loses_one_goes_on_as_one_and_ends_with_the_numbers_of_one(finished, tmp_path):
    whole, workdir = finished[0], tmp_path / "run"
    codes, printed, errors = ends(start("run", workdir, 2, stop=(1, "ppo", 3, int(signal.SIGKILL))))
    assert codes == [1, -9], errors
    assert "process 1" in errors[0].splitlines()[-1] and "continues from the last checkpoint" in errors[0]
    assert "sft  data domain" in printed[0] and printed[1].count("\n") <= 3, "one process prints"
    assert "[4/6] ppo" in errors[0] and "[4/6] ppo" not in errors[1]
    assert_same_numbers(workdir, whole, "pretrain", "sft", "reward")
    assert same(workdir, whole, "data/own_rankings.jsonl")
    process = run("run", workdir)  # one process reads what two have written
    assert process.returncode == 0, process.stderr
    assert_same_numbers(workdir, whole, "ppo")
    texts = lambda folder: [row["response"] for row in files.read_jsonl(folder / "ppo" / "samples.jsonl")]
    assert texts(workdir) == texts(whole)
    assert same(workdir, whole, "evaluate/results.json")


OWN = """
import os, pathlib
CALLS = pathlib.Path(__file__).with_name("calls.txt")

def words(prompts, responses, records):
    if len(prompts) == 8:
        with open(CALLS, "a") as calls:
            calls.write(f"{os.getpid()}\\n")
    return [float(len(response.split())) for response in responses]
"""


@pytest.mark.slow
def test_a_reward_function_is_called_by_one_of_two_processes_and_learned_from_as_by_one(finished, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    own = {"ppo.rewards.words": f"{tmp_path / 'own.py'}:words", "ppo.iterations": 2}
    parts = ("data", "tokenizer", "pretrain", "sft", "reward")
    one, two = (copy_parts(finished, tmp_path / name, *parts) for name in ("one", "two"))
    for workdir, count in ((one, 1), (two, 2)):
        codes, _, errors = ends(start("ppo", workdir, count, **own))
        assert codes == [0] * count, errors
    calls = (tmp_path / "calls.txt").read_text().split()
    assert len(calls) == 4 and len(set(calls)) == 2, "a process of its own in each run, once an iteration"
    assert_same_numbers(two, one, "ppo")
    assert read_metrics(two / "ppo" / "metrics.jsonl")[-1]["reward/words"] > 0


@pytest.mark.slow
def test_two_processes_read_the_checkpoints_of_one_and_evaluate_alike(finished, tmp_path):
    whole = finished[0]
    parts = ("data", "tokenizer", "pretrain", "sft", "reward", "ppo")
    workdir = copy_parts(finished, tmp_path / "run", *parts)
    shutil.copy(whole / "config.json", workdir / "config.json")
    codes, printed, errors = ends(start("evaluate", workdir, 2))
    assert codes == [0, 0], errors
    assert same(workdir, whole, "evaluate/results.json")
    assert "ICE-GRT" in printed[0] and "ICE-GRT" not in printed[1]
    assert not (workdir / ".hosts").exists()


@pytest.mark.slow
def test_processes_with_different_configs_are_refused_by_name_and_nothing_is_left(tmp_path):
    workdir = tmp_path / "run"
    codes, _, errors = ends(start("sft", workdir, 2, last={"seed": 1}))
    assert codes == [2, 2], errors
    for error in errors:
        last = error.splitlines()[-1]
        assert re.search(r"error: process \d: process 1 \(.*\) has another config than process 0 \(seed 0 → 1\)", last)
    assert not workdir.exists()


@pytest.mark.slow
def test_a_process_that_never_comes_is_named(tmp_path):
    started = start("sft", tmp_path / "run", 2, limit=3)
    started[1].kill()
    started[1].communicate()
    codes, _, errors = ends(started[:1])
    assert codes == [1] and "error: process 1 of 2" in errors[0] and "did not come within 3 s" in errors[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("where, step, saved", [("pretrain", 3, "5"), ("sft", 6, "6")])
def test_a_signal_to_one_process_stops_all_whatever_has_been_saved_before(finished, tmp_path, where, step, saved):
    # Just before a save, two looks later; and in a last step, between two stages.
    workdir = tmp_path / "run"
    parts = ("data", "tokenizer", *(("pretrain",) if where == "sft" else ()))
    copy_parts(finished, workdir, *parts)
    (workdir / "data" / "own_rankings.jsonl").unlink()
    codes, _, errors = ends(start("run", workdir, 2, stop=(1, where, step, int(signal.SIGTERM))))
    assert codes == [143, 143], errors
    assert all("SIGTERM: " in error.splitlines()[-1] and "run the same command" in error for error in errors)
    assert (workdir / where / "checkpoints" / saved).is_dir() and not (workdir / "reward").exists()


@pytest.mark.slow
def test_a_second_run_of_several_processes_is_refused_and_leaves_the_first_its_meeting_place(tmp_path):
    workdir = tmp_path / "run"
    release = lock.hold(workdir, "run")
    place = workdir / ".hosts" / "of_the_first"
    place.mkdir(parents=True)
    codes, _, errors = ends(start("sft", workdir, 2))
    assert codes == [2, 1], errors
    for error in errors:
        assert f"process {os.getpid()} on {socket.gethostname()}" in error.splitlines()[-1]
    assert place.is_dir() and sorted(path.name for path in workdir.iterdir()) == [".hosts", ".lock"]
    assert [path.name for path in (workdir / ".hosts").iterdir()] == ["of_the_first"]
    release()
