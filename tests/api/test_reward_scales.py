"""`ice.ppo` by several reward models, the prompts of each source scaled by that source's own moments."""

import dataclasses

import jax
import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax.models.members import Members, stacked

SOURCES = {"cats": ["the cat", "the cat sat"], "ends": ["the end", "the end is near"]}
SMALL = dict(batch_size=8, max_prompt_length=16, max_response_length=4, normalize_on=4, value={"init": "sft"})


def of_several(reward):
    """A model of two, the second with another head."""
    other = {**reward.params, "head": jax.tree.map(lambda x: 1.0 - 3.0 * x, reward.params["head"])}
    return dataclasses.replace(reward, params=Members(stacked([reward.params, other])))


def test_several_reward_models_and_several_sources_each_have_their_own_scale(here):
    policy, reward = ice.load_model("models/policy"), of_several(ice.load_model("models/reward"))
    rule = {"ensemble": "worst", "by_source": True, "clip": 2.5}
    training = ice.ppo(policy, SOURCES, reward=reward, iterations=1, score=rule, **SMALL)
    [(_, metrics, rollout)] = training
    assert metrics["ensemble_std"] > 0 and training.state.members["mean"].shape == (2,)
    stats = training.state.source_stats
    whose = ["cats" if "cat" in record.prompt[-1]["content"] else "ends" for record in rollout.records]
    assert set(whose) == set(stats) == set(SOURCES)
    mean, std = (np.array([float(getattr(stats[name], key)) for name in whose]) for key in ("ref_mean", "ref_std"))
    assert len(set(mean)) == 2 and std.min() > 1e-3
    np.testing.assert_allclose(rollout.scaled, np.clip((rollout.scores - mean) / std, -2.5, 2.5), atol=1e-4)
    for name in SOURCES:
        own = rollout.scores[[other == name for other in whose]]
        np.testing.assert_allclose(metrics[f"source/{name}/mean"], own.mean(), atol=1e-4)


def test_what_several_models_score_is_their_mean_and_they_are_no_folder(here):
    reward = ice.load_model("models/reward")
    several = of_several(reward)
    said = ice.score(several, ["the cat"], ["sat"])
    each = [
        ice.score(dataclasses.replace(reward, params=several.params.member(i)), ["the cat"], ["sat"]) for i in range(2)
    ]
    np.testing.assert_allclose(said, np.mean(each, axis=0), atol=1e-5)
    with pytest.raises(ice.UserError, match="these are 2 reward models, a folder holds one"):
        ice.save_model(several, "models/several")
    given = dict(reward=reward, iterations=1, score={"ensemble": "worst"})
    with pytest.raises(ice.UserError, match=r"ppo.score.ensemble='worst' puts together .* there is one that scores"):
        ice.ppo(ice.load_model("models/policy"), SOURCES, **given, **SMALL)
