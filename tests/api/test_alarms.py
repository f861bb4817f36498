"""Trainings that really go wrong raise the alarms of what has gone wrong."""

import re

import pytest

import icegrt_jax as ice
from icegrt_jax.training.alarms import REWARD_CHECK

JUDGE = """
def few(record, answer):
    return 1 - min(answer.count("a") / 4, 1)
"""


def count_a(prompts, responses, records):
    return [float(text.count("a")) for text in responses]


def begin(models, *, reward, reward_weights, **alarms):
    """A policy that nothing holds back, and a reward for what the judge dislikes."""
    (models / "judge.py").write_text(JUDGE)
    return ice.ppo(
        ice.load_model(models / "models" / "policy"), ["the cat", "the end"],
        reward=reward, reward_weights=reward_weights, judge=f"{models / 'judge.py'}:few",
        iterations=18, batch_size=32, samples_per_prompt=2,
        max_prompt_length=16, max_response_length=4, kl={"coef": 0.0, "adaptive": False},
        policy_optimizer={"lr": 0.03}, value={"init": "sft"}, logprob_alarm=1e-9,
        alarms={"window": 3, "kl_above": 3.0, "entropy_left": 0.7, **alarms},
    )  # fmt: skip


def test_a_policy_that_hacks_its_reward_is_found_out_and_stopped(models, capsys):
    reward = {"letters": count_a, "model": ice.load_model(models / "models" / "reward")}
    training = begin(
        models, reward=reward, reward_weights={"model": 0.01}, reward_every=3, stop=("entropy_collapse",)
    )  # fmt: skip
    rows = [metrics for _, metrics, _ in training]
    printed = capsys.readouterr().out
    found = re.findall(r"ppo  alarm: step (\d+): (\w+): .* Likely cause: .* Change: ", printed)
    assert [name for _, name in found] == [
        "sampler_drift", "few_eos", "over_optimised", "kl_too_large", "entropy_collapse"
    ]  # fmt: skip
    over, end = int(found[2][0]), int(found[4][0])
    assert rows[over - 1]["gold"] < rows[0]["gold"] - 0.1 and rows[over - 1]["score_scaled"] > rows[0]["score_scaled"]
    assert f"ppo: ends at step {end}: entropy_collapse is in ppo.alarms.stop" in printed and len(rows) == end < 18
    assert [row["step"] for row in rows if REWARD_CHECK in row] == list(range(3, end + 1, 3))
    assert rows[2]["reward_check/pairs"] > 0


def test_a_look_at_the_reward_model_needs_pairs_and_a_model(models):
    policy, reward = (ice.load_model(models / "models" / name) for name in ("policy", "reward"))
    for scorer, keys, said in (
        (reward, {"judge": "exact"}, "here it needs samples_per_prompt=2 or more"),
        (reward, {"samples_per_prompt": 2}, "ppo.judge is empty"),
        (count_a, {"judge": "exact", "samples_per_prompt": 2}, "looks at the reward model, and PPO has none"),
    ):
        with pytest.raises(ice.UserError, match=said):
            ice.ppo(policy, ["the cat"], reward=scorer, iterations=1, alarms={"reward_every": 1}, **keys)
