"""Reward functions on the host: what they may give, where they fail, and the processes that call them."""

import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from icegrt_jax.config.options import PPOOptions
from icegrt_jax.data.records import Prompt, user
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.runs.loop import Left
from icegrt_jax.runs.reward_call import Failed, call
from icegrt_jax.runs.reward_callers import HANGING, Here
from icegrt_jax.runs.rewards import FAILURES, Answer, RewardError, Rewards, _parts, try_out

RECORDS = [Prompt(user(f"question {i}"), f"answer {i}", {"task": i}, f"p.jsonl, line {i + 1}") for i in range(6)]
TEXTS = ["answer 0", "", "answer 2", "no", "answer 4", "answer 5"]
OWN = """
import os, pathlib, signal, time

def exact(prompts, responses, records):
    return [float(text == record.reference) for text, record in zip(responses, records)]

def seen(prompts, responses, records):
    assert [prompt[-1]["content"] for prompt in prompts] == [f"question {record.meta['task']}" for record in records]
    return [len(responses)] * len(responses)

def holes(prompts, responses, records):
    return [None if not text else 1.0 / (len(text) - 2) for text in responses]

def sleeps(prompts, responses, records):
    if "no" in responses:
        pathlib.Path(__file__).with_name("child").write_text(str(os.getpid()))
        time.sleep(60)
    return [1] * len(responses)

def dies(prompts, responses, records):
    if "no" in responses:
        os.kill(os.getpid(), signal.SIGKILL)
    return [2.0] * len(responses)
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return lambda *names: {name: f"{tmp_path / 'own.py'}:{name}" for name in names}


def answer(rewards, texts=TEXTS, records=RECORDS, **more):
    return rewards.ask("ppo, iteration 7", records, texts, **more)()


def values(function, texts=TEXTS):
    return call(function, pathlib.Path(__file__), texts, RECORDS[: len(texts)])


# What a function may give.


def test_numbers_of_any_kind_and_no_opinion_are_taken():
    given = [True, 2, np.float32(0.5), None, np.array(3), -1.5]
    assert values(lambda *batch: given) == [1.0, 2.0, 0.5, None, 3.0, -1.5]
    assert values(lambda *batch: np.arange(6)) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert values(lambda *batch: tuple(given)) == values(lambda *batch: given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (math.nan, "returned nan; expected a finite number"),
        (math.inf, "returned inf; expected a finite number"),
        (1e39, "1e+39; expected a finite number that float32 holds"),
        (10**400, "which is no number (int too large"),
        ("0.5", "returned '0.5', of type str; expected a number, or None"),
        ([1], "returned [1], of type list; expected a number"),
    ],
)
def test_what_is_no_number_has_failed_for_its_response_alone(given, said):
    found = values(lambda *batch: [1.0, given, 1.0], TEXTS[:3])
    assert found[0] == found[2] == 1.0 and said in found[1].reason


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1.0] * 5, "returned 5 items for 6 responses; expected one for each"),
        (1.0, "returned 1.0, of type float; expected a list of 6 items"),
        (None, "of type NoneType; expected a list of 6 items"),
        ({"a": 1}, "of type dict; expected a list of 6 items"),
    ],
)
def test_what_is_no_list_of_that_length_has_failed_for_all(given, said):
    found = values(lambda *batch: given)
    assert len(found) == 6 and all(said in value.reason for value in found)


def test_an_exception_is_of_the_responses_that_raise_it_alone():
    def function(prompts, responses, records):
        return [1 / len(text) for text in responses]

    found = values(function)
    assert isinstance(found[1], Failed) and found[0] == 1 / 8 and sum(isinstance(v, Failed) for v in found) == 1
    line = function.__code__.co_firstlineno + 1
    assert found[1].reason == f"raised ZeroDivisionError: division by zero (test_rewards.py, line {line})"
    assert "in function" in found[1].trace and "1 / len(text)" in found[1].trace


def test_an_exception_that_no_response_raises_alone_is_of_the_whole_batch():
    def function(prompts, responses, records):
        if len(responses) > 3:
            raise RuntimeError("too many")
        return [1.0] * len(responses)

    assert all("RuntimeError: too many" in value.reason for value in values(function))
    assert values(function, TEXTS[:3]) == [1.0] * 3


def test_a_function_that_leaves_the_process_has_only_failed():
    def function(prompts, responses, records):
        raise SystemExit(3)

    assert all("raised SystemExit: 3" in value.reason for value in values(function))


def test_a_function_cannot_reorder_what_it_is_given():
    texts, records = list(TEXTS), list(RECORDS)
    call(lambda prompts, responses, records: [responses.sort(), records.clear()], None, texts, records)
    assert texts == TEXTS and records == RECORDS


# What a run makes of it.


def test_values_means_and_opinions_by_name(own):
    with Rewards(own("exact", "holes"), failed="none") as rewards:
        found = answer(rewards)
    assert found.values["exact"] == [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    assert found.values["holes"] == [1 / 6, None, 1 / 6, None, 1 / 6, 1 / 6]
    assert found.metrics() == {
        "reward/exact": pytest.approx(4 / 6), "reward/exact/known": 1.0, "reward/exact/failed": 0,
        "reward/holes": pytest.approx(1 / 6), "reward/holes/known": pytest.approx(4 / 6), "reward/holes/failed": 1,
    }  # fmt: skip
    opinions = found.opinions()["holes"]
    np.testing.assert_array_equal(opinions.known, [True, False, True, False, True, True])
    assert opinions.values.dtype == np.float32 and opinions.values[1] == 0
    assert found.of(1) == {"exact": 0.0, "holes": None}
    nobody = Answer({"quiet": [None, None]}).metrics()
    assert nobody == {"reward/quiet/known": 0.0}, "a mean of nothing is no number"


def test_a_failure_stops_the_run_with_a_sentence_and_its_traceback_in_a_file(own, tmp_path):
    rewards = Rewards(own("exact", "holes"), folder=tmp_path / "ppo")
    with pytest.raises(RewardError) as error:
        answer(rewards)
    text = str(error.value)
    assert text.startswith(f"ppo, iteration 7: the reward function holes ({tmp_path / 'own.py'}:holes) raised ")
    assert "ZeroDivisionError: float division by zero (own.py, line 12)" in text
    assert "for response 4 of 6, to p.jsonl, line 4, 'question 3'" in text
    assert f"traceback is in {tmp_path / 'ppo' / FAILURES}" in text and "ppo.reward_failed" in text
    written = (tmp_path / "ppo" / FAILURES).read_text()
    assert "Traceback" in written and "p.jsonl, line 4" in written and "'no'" in written


def test_a_failed_response_is_given_the_stated_value(own, tmp_path):
    rewards = Rewards(own("holes"), failed="-2.5", folder=tmp_path)
    found = answer(rewards)
    assert found.values["holes"] == [1 / 6, None, 1 / 6, -2.5, 1 / 6, 1 / 6] and found.failed == {"holes": 1}
    answer(rewards)
    assert (tmp_path / FAILURES).read_text().count("Traceback") == 2, "each iteration's is kept"


def test_functions_are_called_while_the_caller_does_something_else():
    order, go = [], threading.Event()

    def function(prompts, responses, records):
        go.wait(10)
        order.append("called")
        return [0.0] * len(responses)

    wait = Rewards({"own": function}).ask("ppo", RECORDS, TEXTS)
    order.append("asked")
    go.set()
    assert wait().values == {"own": [0.0] * 6} and order == ["asked", "called"]


def test_a_thread_that_is_too_slow_is_left_behind():
    free = threading.Event()
    rewards = Rewards({"own": lambda *batch: free.wait(30) and []}, limit=0.05)
    with pytest.raises(RewardError, match=r"took longer than ppo.reward_timeout=0.05 s .*for all 6 responses"):
        answer(rewards)
    free.set()


def test_nobody_waits_for_a_function_once_the_run_is_to_stop(own, tmp_path):
    begun, ends = threading.Event(), threading.Event()

    def asks_a_slow_server(prompts, responses, records):
        begun.set()
        ends.wait()
        return [0.0] * len(responses)

    with Rewards({"own": asks_a_slow_server}, leave=begun.is_set) as rewards, pytest.raises(Left):
        answer(rewards)
    ends.set()
    with Rewards(own("exact"), leave=lambda: True) as rewards:
        assert answer(rewards).values["exact"][0] == 1.0, "what has been said is taken"
    child = tmp_path / "child"
    with Rewards(own("sleeps"), leave=child.exists, workers=1) as rewards, pytest.raises(Left):
        answer(rewards)
    assert not alive(int(child.read_text()))


def test_only_the_main_process_calls_and_all_are_told(monkeypatch, own):
    told = answer(Rewards(own("exact"))).values
    monkeypatch.setattr(sync, "is_main", lambda: False)
    monkeypatch.setattr(sync, "from_main", lambda what, make, timeout: {"values": told, "failed": {}})
    assert answer(Rewards({"exact": lambda *batch: 1 / 0})).values == told
    monkeypatch.setattr(sync, "from_main", lambda what, make, timeout: {"stop": "a sentence"})
    with pytest.raises(RewardError, match="a sentence"):
        answer(Rewards(own("exact")))


def test_none_is_called_where_there_is_none():
    rewards = Rewards({})
    assert not rewards and answer(rewards) == Answer({}) and answer(rewards).opinions() == {}


# Worker processes.


def test_workers_share_a_batch_by_prompts_and_give_what_one_thread_gives(own):
    assert _parts(8, 2, 3) == [slice(0, 2), slice(2, 6), slice(6, 8)] and _parts(2, 2, 3) == [slice(0, 2)]
    with Rewards(own("exact", "seen"), workers=2, limit=30) as rewards:
        found = answer(rewards, group=3)
        assert found.values["exact"] == [1.0, 0.0, 1.0, 0.0, 1.0, 1.0] and found.values["seen"] == [3.0] * 6
        processes = [caller._process for caller in rewards._callers]
        answer(rewards, group=3)
        assert processes == [caller._process for caller in rewards._callers], "they are kept"
        assert answer(rewards, names=["seen"], group=6).values == {"seen": [6.0] * 6}
    assert all(process.returncode is not None for process in processes), "they are ended"


def test_a_worker_that_is_too_slow_is_ended_and_another_takes_its_place(own, tmp_path):
    with Rewards(own("sleeps"), workers=2, limit=0.7, failed="none") as rewards:
        found = answer(rewards)
        assert found.values["sleeps"] == [1.0] * 3 + [None] * 3 and found.failed == {"sleeps": 3}
        assert not alive(int((tmp_path / "child").read_text()))
        assert answer(rewards, ["yes"] * 6).values["sleeps"] == [1.0] * 6


def test_a_worker_that_dies_is_a_sentence(own):
    with Rewards(own("dies"), workers=1) as rewards:
        with pytest.raises(RewardError, match=r"dies \(.*\) has lost its worker process: it was ended by SIGKILL"):
            answer(rewards)
        assert answer(rewards, ["yes"] * 6).values["dies"] == [2.0] * 6


def test_workers_end_with_the_run(own, tmp_path):
    program = (
        "import os, sys\nfrom icegrt_jax.runs.reward_callers import Worker\n"
        "from icegrt_jax.data.records import Prompt, user\n"
        f"worker = Worker({{'exact': ('ppo.rewards.exact', '{tmp_path / 'own.py'}:exact')}}, 0)\n"
        "assert worker.call('exact', ['x'], [Prompt(user('q'), 'x')]) == [1.0]\n"
        "print(worker._process.pid, 'jax' in sys.modules, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert out.returncode == -signal.SIGKILL, out.stderr
    pid, knows_jax = out.stdout.split()
    assert knows_jax == "False", "a worker imports no JAX"
    until = time.monotonic() + 10
    while alive(int(pid)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(int(pid))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = pathlib.Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


# What is refused before a run begins.


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("def other(prompts): ...", "defines no reward; it has other"),
        ("def reward(prompts, responses): ...", r"reward\(prompts, responses\) cannot be called as reward\(prompts, "),
        ("class reward: ...", "reward is a class; expected a function"),
        ("1 / 0", "own.py, line 1: ZeroDivisionError"),
        ("def reward(prompts, responses, records): return 'x'", "tried on references: .*expected a list of 2 items"),
    ],
)
def test_a_function_that_cannot_work_is_refused_before_the_run(line, said, tmp_path):
    (tmp_path / "own.py").write_text(line + "\n")
    with pytest.raises(UserError, match=said):
        try_out(PPOOptions(rewards={"good": f"{tmp_path / 'own.py'}:reward"}), RECORDS[:2])


def test_functions_are_tried_on_references(own):
    assert try_out(PPOOptions(rewards=own("exact", "seen")), RECORDS) == []
    assert try_out(PPOOptions(), []) == []
    empty = [Prompt(user("q"))]
    options = PPOOptions(rewards=own("holes"), reward_failed="none")
    assert try_out(options, empty) == []
    said = try_out(options, [Prompt(user("q"), "no")])
    assert len(said) == 1 and "tried on references: the reward function holes" in said[0]
    with pytest.raises(UserError, match="processes|process imports"):
        Rewards({"own": lambda *batch: []}, workers=2)


def test_a_function_that_hangs_for_ever_does_not_fill_the_process_with_threads():
    ends = threading.Event()
    here = Here({"slow": (lambda prompts, responses, records: ends.wait() and [1.0] * len(responses), None)}, 0.01)
    before = threading.active_count()
    reasons = [here.call("slow", TEXTS, RECORDS)[0].reason for _ in range(HANGING + 3)]
    assert threading.active_count() - before == HANGING
    assert all(reason.startswith("took longer than") for reason in reasons[:HANGING])
    assert all(reason.startswith(f"is not called: {HANGING} earlier calls still hang") for reason in reasons[HANGING:])
    ends.set()
    while threading.active_count() > before:
        time.sleep(0.01)
    assert here.call("slow", TEXTS, RECORDS) == [1.0] * len(TEXTS), "they have ended"
