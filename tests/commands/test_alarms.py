"""A run whose answers are all cut off says so, looks at its reward model, and ends early where it is told to."""

import pytest

from icegrt_jax import files
from tests.commands.runs import call, copy_parts

PARTS = ("config.json", "data", "tokenizer", "pretrain", "sft", "reward")
JUDGE = "def judge(record, answer):\n    return len(set(answer)) / 100\n"
KEYS = {
    "ppo.batch_size": 16, "ppo.ptx.batch_size": 16, "ppo.alarms.window": 2, "ppo.alarms.stop": "('few_eos',)",
    "ppo.heldout.ads": "jsonl:{workdir}/data/eval_prompts.jsonl", "ppo.heldout_limit": 5,
    "ppo.alarms.reward_every": 2, "ppo.alarms.reward_k": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def stopped(finished, tmp_path_factory):
    """The workdir, and the keys."""
    folder = tmp_path_factory.mktemp("alarms")
    (folder / "judge.py").write_text(JUDGE)
    keys = {**KEYS, "ppo.judge": f"{folder / 'judge.py'}:judge"}
    workdir = copy_parts(finished, folder / "run", *PARTS)
    assert call("ppo", workdir, **keys) == 0
    return workdir, keys


def test_the_stage_ends_with_its_state_saved_and_the_alarm_where_it_is_looked_for(stopped):
    workdir, _ = stopped
    done = files.read_json(workdir / "ppo" / "done.json")
    assert done["step"] == 2 and done["alarms"] == {"few_eos": [[2, None]]}
    assert (workdir / "ppo" / "checkpoints" / "2").is_dir()
    (event,) = files.read_jsonl(workdir / "ppo" / "alarms.jsonl")
    assert event["alarm"] == "few_eos" and "max_response_length" in event["change"]
    assert b"few_eos_said" in next((workdir / "ppo").glob("events.*")).read_bytes()


def test_the_reward_model_is_looked_at_on_answers_to_held_out_prompts(stopped):
    workdir, _ = stopped
    (row,) = [row for row in files.read_jsonl(workdir / "ppo" / "metrics.jsonl") if "reward_check/accuracy" in row]
    assert row["step"] == 2 and 0 < row["reward_check/pairs"] <= 5 * 3
    assert row["reward_check/accuracy_low"] <= row["reward_check/accuracy"] <= row["reward_check/accuracy_high"]


def test_alarms_may_change_in_the_same_workdir(stopped, capsys):
    workdir, keys = stopped
    assert call("ppo", workdir, **{**keys, "ppo.alarms.stop": "()", "ppo.alarms.eos_rate": 0.1}) == 0
    assert "ppo: finished, skipped" in capsys.readouterr().out
