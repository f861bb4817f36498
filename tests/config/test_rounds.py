"""What of rounds is refused before anything begins, and what the reward model of a round reads."""

import dataclasses

import pytest

from icegrt_jax.config import rounds
from icegrt_jax.config.options import AnnotationOptions, PPOOptions, RewardOptions
from icegrt_jax.errors import UserError

REWARD = RewardOptions(steps=1, sources={"made": "jsonl:a"}, weights={"made": 0.5})
PPO = PPOOptions(iterations=1)


def check(count=2, reward=REWARD, ppo=PPO, weight=1.0, domain="adreview", **annotation):
    rounds.check(count, AnnotationOptions(**annotation), reward, ppo, weight, domain)


def test_a_round_reads_the_rankings_of_all_before_it():
    assert rounds.with_rankings(REWARD, 1, 2.0) == REWARD
    third = rounds.with_rankings(REWARD, 3, 2.0)
    assert third.weights == {"made": 0.5, "round2": 2.0, "round3": 2.0}
    assert third.sources["round3"] == "jsonl:{workdir}/data/rankings_round3.jsonl"
    assert rounds.is_made(third.sources["round2"]) and not rounds.is_made(third.sources["made"])


def test_rounds_that_could_not_be_gone_through_are_refused():
    check()
    check(by="people", domain="", prompts="jsonl:asked.jsonl")
    check(by="my_judge.py:judge", domain="", prompts="jsonl:asked.jsonl")
    check(count=1, reward=RewardOptions(), ppo=PPOOptions(), weight=0.0)
    wrong = [
        ({"reward": RewardOptions()}, "rounds=2: each round trains a reward model"),
        ({"ppo": PPOOptions()}, "set reward.steps and ppo.iterations above 0"),
        ({"weight": 0.0}, "leave the reward model its weight"),
        ({"domain": ""}, "annotation.by='domain', but domain is empty"),
        ({"by": "people", "domain": ""}, "annotation.prompts is empty, and so is domain"),
        ({"by": "nobody"}, "annotation.by='nobody'; expected one of 'domain', 'people'"),
        ({"policy_k": 1, "instruct_k": 0}, "one answer has no rank"),
        ({"prompts": "rows.jsonl"}, "annotation.prompts='rows.jsonl'; expected FORMAT:PATH"),
        ({"reward": dataclasses.replace(REWARD, sources={"round2": "jsonl:a"})}, "the rankings of a round have that"),
    ]
    for changes, said in wrong:
        with pytest.raises(UserError) as error:
            check(**changes)
        assert said in str(error.value), said
