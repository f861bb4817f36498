"""Alarms of a run: said once, kept in files that a stopped run ends with as well, and an early end."""

import types

import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.config.options import AlarmOptions, KLOptions, PPOOptions
from icegrt_jax.data.records import Prompt, user
from icegrt_jax.evaluation.judges import Judge
from icegrt_jax.runs import alarm_watch, reward_check
from icegrt_jax.runs.alarm_watch import Alarms
from icegrt_jax.runs.judging import Questions
from icegrt_jax.runs.loop import Outcome
from icegrt_jax.training.alarms import Given
from icegrt_jax.training.metrics import MetricsWriter

STOP = AlarmOptions(window=4, stop=("few_eos",))
RATES = [0.97] * 6 + [0.4] * 6 + [0.97] * 6


def run(folder, steps, options, *, start=None, end=None, measuring=()):
    """Goes over iterations as the loop does; the step of an early end, else None."""
    alarms = Alarms(Given(options), folder, measuring)
    if alarms.begin(start) and start is not None:
        return start, alarms
    with MetricsWriter(folder, resume_step=start) as writer:
        for step in range((start or 0) + 1, (end or len(steps)) + 1):
            metrics = {"eos_rate": np.float32(steps[step - 1] + 0.001 * (step % 2)), "score_histogram": np.zeros(3)}
            writer.write(step, metrics)
            write = lambda row, step=step: writer.write(step, row)
            if alarms.after(step, Outcome(None, metrics), write):
                return step, alarms
    return None, alarms


def kept(folder):
    return {name: (folder / name).read_text() for name in ("metrics.jsonl", "alarms.jsonl")}


@pytest.mark.parametrize("at", [3, 8, 9, 14, 18])
def test_a_run_that_goes_on_says_nothing_twice_and_ends_with_the_same_files(tmp_path, at, capsys):
    run(tmp_path / "whole", RATES, AlarmOptions(window=4))
    whole = capsys.readouterr().out
    assert whole.count("alarm: step") == 2 and "few_eos has ended" in whole
    run(tmp_path / "again", RATES, AlarmOptions(window=4), end=min(at + 3, 18))  # killed after a checkpoint at `at`
    before = capsys.readouterr().out.splitlines()
    run(tmp_path / "again", RATES, AlarmOptions(window=4), start=at)
    after = capsys.readouterr().out.splitlines()
    assert kept(tmp_path / "again") == kept(tmp_path / "whole")
    again = [line for line in before if int(line.split("step ")[1].split(":")[0]) <= at] + after
    assert again == whole.splitlines()


def test_what_is_kept_names_measurement_bound_cause_and_keys(tmp_path):
    run(tmp_path, RATES, AlarmOptions(window=4))
    begins, ends = files.read_jsonl(tmp_path / "alarms.jsonl")
    assert begins["alarm"] == ends["alarm"] == "few_eos" and (begins["begins"], ends["begins"]) == (True, False)
    assert begins["value"] < begins["bound"] == 0.8 < ends["value"]
    assert "max_response_length" in begins["change"] and begins["cause"] and "0.8" in begins["measured"]
    rows = [row for row in files.read_jsonl(tmp_path / "metrics.jsonl") if "alarm/few_eos" in row]
    assert [(row["step"], row["alarm/few_eos"]) for row in rows] == [(begins["step"], 1), (ends["step"], 0)]


def test_the_summary_is_one_line(tmp_path, capsys):
    _, alarms = run(tmp_path / "a", RATES, AlarmOptions(window=4))
    capsys.readouterr()
    begin, end = (row["step"] for row in files.read_jsonl(tmp_path / "a" / "alarms.jsonl"))
    assert alarms.summary() == {"alarms": {"few_eos": [(begin, end)]}}
    assert capsys.readouterr().out == f"ppo  alarms: few_eos from step {begin} to {end}\n"
    _, alarms = run(tmp_path / "b", [0.97] * 10, AlarmOptions(window=4))
    assert alarms.summary() == {} and not (tmp_path / "b" / "alarms.jsonl").exists()
    assert capsys.readouterr().out == "ppo  alarms: none in 10 iterations\n"


def test_an_alarm_in_stop_ends_the_stage_with_a_sentence_and_has_ended_it_when_it_is_begun_again(tmp_path, capsys):
    step, _ = run(tmp_path, RATES, STOP)
    assert 7 <= step < 12
    assert f"ppo: ends at step {step}: few_eos is in ppo.alarms.stop" in capsys.readouterr().out
    before = kept(tmp_path)
    assert run(tmp_path, RATES, STOP, start=step)[0] == step and kept(tmp_path) == before
    assert capsys.readouterr().out == f"ppo: ends at step {step}: few_eos is in ppo.alarms.stop\n"
    assert run(tmp_path, RATES, AlarmOptions(window=4), start=step)[0] is None, "without it the run goes on"


def test_other_bounds_apply_to_what_has_been_done_already(tmp_path):
    run(tmp_path, RATES, AlarmOptions(window=4), end=12)
    assert (tmp_path / "alarms.jsonl").exists()
    run(tmp_path, RATES, AlarmOptions(window=4, eos_rate=0.2), start=12)
    assert not (tmp_path / "alarms.jsonl").exists()


def test_a_new_run_forgets_an_old_ones_alarms(tmp_path):
    (tmp_path / "alarms.jsonl").write_text("{}\n")
    run(tmp_path, [0.97] * 3, AlarmOptions())
    assert not (tmp_path / "alarms.jsonl").exists()


def test_what_others_measure_is_looked_at_and_ends_the_stage_as_they_say(tmp_path):
    begun = []
    name = "reward_check/accuracy"
    found = {name: 0.5, f"{name}_low": 0.48, f"{name}_high": 0.52}
    after = lambda step, outcome, write: bool(step == 5 and write(found)) or step == 7
    measuring = types.SimpleNamespace(begin=lambda step: bool(begun.append(step)), after=after)
    step, alarms = run(tmp_path, [0.97] * 9, AlarmOptions(), measuring=(measuring,))
    assert (step, begun) == (7, [None]) and alarms.summary() == {"alarms": {"reward_at_chance": [(5, None)]}}
    again = Alarms(Given(), tmp_path)
    again.begin(5)
    assert again.summary() == alarms.summary(), "its row is read again"


def test_from_python_nothing_is_kept_and_no_text_is_written(capsys):
    alarms, written = Alarms(Given(AlarmOptions(window=4))), []
    for step, rate in enumerate(RATES, 1):
        alarms.after(step, Outcome(None, {"eos_rate": np.float32(rate)}), written.append)
    assert capsys.readouterr().out.count("alarm: step") == 2 and written == []


def test_what_is_optimised_is_the_model_alone_or_the_sum():
    given = lambda weight, **keys: alarm_watch.given(PPOOptions(**keys), weight=weight)
    assert given(1.0).reward == "score_raw"
    assert (
        given(0.0, rewards={"mine": "f.py:f"}).reward == given(0.5, rewards={"mine": "f.py:f"}).reward == "score_scaled"
    )
    assert given(1.0, value_warmup=7, logprob_alarm=0.5) == Given(AlarmOptions(), drift=0.5, warmup=7)
    kl = lambda temperature: KLOptions(reference_temperature=temperature)
    assert [given(1.0, kl=kl(t)).sharper for t in (0.0, 0.6, 1.0, 1.5)] == [1.0, 0.6, 1.0, 1.0]
    assert given(1.0, kl=kl(0.6), temperature=0.8).sharper == 0.6 / 0.8 and given(1.0, temperature=0.8).sharper == 1.0


def test_the_reward_model_is_looked_at_on_the_pairs_of_the_iterations_own_answers():
    judge = Judge("number", lambda record, answer: float(answer))
    prompts = [Prompt(user(text)) for text in "aabbcc"]
    asked = Questions(prompts, [judge, judge, judge, judge, None, None])
    texts = ["0.1", "0.9", "0.2", "0.8", "no", "judge"]
    more, written = types.SimpleNamespace(asked=asked, responses=texts), []
    outcome = Outcome(None, {"score_histogram": np.array([0.0, 1.0, 3.0, 2.0, 5.0, 5.0], np.float32)}, more)
    ppo = PPOOptions(samples_per_prompt=2, alarms=AlarmOptions(reward_every=3))
    check = reward_check.make(None, ppo, "", None)[0]
    assert [check.after(step, outcome, written.append) for step in range(1, 7)] == [False] * 6
    assert len(written) == 2 and written[0]["reward_check/accuracy"] == 0.5 and written[0]["reward_check/pairs"] == 2
    assert written[0]["reward_check/accuracy_low"] < 0.5 < written[0]["reward_check/accuracy_high"]
    assert reward_check.make(None, PPOOptions(), "", None) == ()


def test_the_held_out_accuracy_is_what_the_reward_stage_has_measured(tmp_path):
    run = types.SimpleNamespace(folder=lambda stage: tmp_path / stage)
    assert reward_check.ranked(run) is None
    heldout = {"a/accuracy": 0.8, "b/accuracy": 0.9, "a/calibration_error": 0.1}
    files.write_json_atomic(tmp_path / "reward" / "done.json", {"heldout": heldout})
    assert reward_check.ranked(run) == pytest.approx(0.85)
