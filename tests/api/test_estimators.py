"""`ice.ppo` without a critic."""

import numpy as np
import pytest

import icegrt_jax as ice

SMALL = dict(iterations=2, batch_size=8, samples_per_prompt=4, max_prompt_length=16, max_response_length=4)
LOSS = dict(kl={"into": "loss", "kind": "k3"})


def count_a(prompts, responses, records):
    return [float(text.count("a")) for text in responses]


@pytest.mark.parametrize("estimator, more", [("rloo", {}), ("gspo", LOSS)])
def test_a_rollout_without_a_critic_has_no_values_and_its_advantages_are_those_of_its_groups(here, estimator, more):
    policy = ice.load_model("models/policy")
    training = ice.ppo(policy, ["the cat", "the end"], reward=count_a, estimator=estimator, **SMALL, **more)
    (_, metrics, rollout), _ = training
    assert rollout.values is None and rollout.returns is None and set(training.state.opt_state) == {"policy"}
    groups, scores = rollout.rewards.sum(1).reshape(-1, 4), rollout.scaled.reshape(-1, 4)
    expected = (groups - groups.mean(1, keepdims=True)) * 4 / 3
    if estimator == "gspo":
        expected = (groups - groups.mean(1, keepdims=True)) / np.maximum(groups.std(1, keepdims=True), 1e-5)
    np.testing.assert_allclose(rollout.advantages[:, 0], expected.reshape(-1), atol=1e-4)
    scores = scores - ~rollout.finished.reshape(-1, 4)  # the penalty for having been cut off
    assert metrics["group_std"] == pytest.approx(scores.std(1).mean(), abs=1e-5)
    lines = str(rollout.show(0)).splitlines()
    assert lines[1].split() == ["token", "log-prob", "reference", "advantage", "reward"]
    assert "<th>value</th>" not in rollout.show(0)._repr_html_()
    assert training.model.config == policy.config


def test_a_critic_from_a_model_that_is_not_given_is_refused_only_where_there_is_one(here):
    given = dict(reward=count_a, value={"init": "reward"}, **SMALL)
    with pytest.raises(ice.UserError, match="the reward model is not given, so the critic cannot start from it"):
        ice.ppo(ice.load_model("models/policy"), ["the cat"], **given)
    ice.ppo(ice.load_model("models/policy"), ["the cat"], estimator="reinforce_pp", **given).close()


def test_a_score_is_taken_against_that_of_the_prompt_s_reference_answer(here):
    policy, reward = ice.load_model("models/policy"), ice.load_model("models/reward")
    prompts = [{"prompt": "the cat", "reference": "sat"}, {"prompt": "the end", "reference": "near the cat"}]
    shaped = dict(score={"baseline": "reference", "scale": "none", "shape": "sigmoid"})
    training = ice.ppo(policy, prompts, reward=reward, **{**SMALL, "iterations": 1}, **shaped)
    [(_, metrics, rollout)] = training
    records = rollout.records[::4]
    told = ice.score(reward, [record.prompt for record in records], [record.reference for record in records])
    assert metrics["score_reference"] == pytest.approx(np.mean(told), abs=1e-4) and metrics["reference_cut"] == 0
    expected = 1 / (1 + np.exp(np.repeat(told, 4) - rollout.scores))
    np.testing.assert_allclose(rollout.scaled, expected, atol=1e-4)
    with pytest.raises(ice.UserError, match="ppo.score.baseline='reference': .* has no reference answer; give each"):
        ice.ppo(policy, ["the cat"], reward=reward, **SMALL, **shaped)
