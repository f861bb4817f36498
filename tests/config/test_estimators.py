"""Which keys go with which estimator: what does not is refused before any device is touched."""

import pathlib

import pytest

from icegrt_jax.config import checks, read
from icegrt_jax.config.estimators import ESTIMATORS, aggregation_of
from icegrt_jax.config.file import load_config
from icegrt_jax.config.options import PPOOptions, RewardOptions
from icegrt_jax.errors import UserError

QUICKSTART = f"{pathlib.Path(__file__).parents[2] / 'configs' / 'quickstart.py'}:smoke"
LOSS, REWARD = "ppo.kl.into=loss ppo.kl.kind=k3", "ppo.kl.into=reward ppo.kl.kind=k1"
FOUR = "ppo.samples_per_prompt=4"
NO_KL = "ppo.kl.coef=0.0 ppo.kl.adaptive=false"


def check(overrides):
    checks.check(read(load_config(QUICKSTART, [f"--config.{override}" for override in overrides.split()])))


@pytest.mark.parametrize(
    "overrides",
    [
        f"ppo.estimator=rloo {FOUR}",
        f"ppo.estimator=grpo {FOUR} {LOSS} ppo.filter_groups=true ppo.cliprange_high=0.28",
        f"ppo.estimator=dr_grpo {FOUR} {LOSS}",
        f"ppo.estimator=dr_grpo {FOUR} {NO_KL} ppo.loss_aggregation=token",
        f"ppo.estimator=gspo {FOUR} {LOSS} ppo.loss_aggregation=sequence",
        "ppo.estimator=reinforce_pp ppo.gamma=0.9 ppo.whiten_rewards=true",
        "ppo.filter_overlong=true ppo.loss_aggregation=constant ppo.entropy_coef=0.01",
        "ppo.lam_alpha=0.05 ppo.value_lam=1.0",
        "ppo.score.shape=sigmoid",
        "ppo.score.shape=sigmoid ppo.score.baseline=reference ppo.score.scale=none",
    ],
)
def test_what_a_paper_has_is_taken(overrides):
    check(overrides)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ("ppo.estimator=ppo", "ppo.estimator='ppo'; expected one of 'gae', 'rloo', 'grpo', 'dr_grpo', 'reinforce_pp'"),
        ("ppo.loss_aggregation=mean", "ppo.loss_aggregation='mean'; expected one of 'own', 'token', 'sequence'"),
        ("ppo.estimator=rloo", "ppo.samples_per_prompt=1 with ppo.estimator='rloo', which compares the answers to a"),
        (f"ppo.estimator=grpo {FOUR}",
         "ppo.kl.into='reward' with ppo.estimator='grpo', whose KL is in the loss (arXiv 2402.03300); use ppo.kl.into="
         "'loss' with ppo.kl.kind='k3', or no KL: ppo.kl.coef=0 with ppo.kl.adaptive=false."),
        (f"ppo.estimator=gspo {FOUR}", "ppo.kl.into='reward' with ppo.estimator='gspo', whose KL is in the loss"),
        (f"ppo.estimator=rloo {FOUR} {LOSS}", "ppo.kl.into='loss' with ppo.estimator='rloo', whose KL is in"),
        (f"ppo.estimator=reinforce_pp {LOSS}", "ppo.kl.into='loss' with ppo.estimator='reinforce_pp', whose KL is in"),
        (f"ppo.estimator=gspo {FOUR} {LOSS} ppo.loss_aggregation=token",
         "ppo.loss_aggregation='token' with ppo.estimator='gspo': a ratio of whole answers goes with a mean over"),
        (f"ppo.estimator=rloo {FOUR} ppo.advantages=none",
         "ppo.advantages='none' is for ppo.estimator='gae': rloo normalises as its paper does."),
        (f"ppo.estimator=rloo {FOUR} ppo.value_warmup=2", "ppo.value_warmup=2 is for ppo.estimator='gae': rloo has"),
        (f"ppo.estimator=rloo {FOUR} ppo.lam_alpha=0.05", "ppo.lam_alpha=0.05 is for ppo.estimator='gae': rloo has"),
        (f"ppo.estimator=rloo {FOUR} ppo.value_lam=1.0", "ppo.value_lam=1.0 is for ppo.estimator='gae': rloo has no"),
        (f"ppo.estimator=rloo {FOUR} value.trunk=policy", "value.trunk='policy' with ppo.estimator='rloo', which"),
        (f"ppo.estimator=rloo {FOUR} ppo.gamma=0.9", "ppo.gamma=0.9 with ppo.estimator='rloo': a whole answer has one"),
        (f"ppo.estimator=rloo {FOUR} ppo.whiten_rewards=true", "ppo.whiten_rewards=True with ppo.estimator='rloo': a"),
        ("ppo.filter_groups=true", "ppo.filter_groups=true with ppo.estimator='gae', which has no groups"),
        ("ppo.estimator=reinforce_pp ppo.filter_groups=true", "ppo.filter_groups=true with ppo.estimator='rein"),
        ("ppo.score.baseline=reference", "ppo.score.baseline='reference' with ppo.score.scale='reference': the"),
        ("ppo.score.shape=tanh", "ppo.score.shape='tanh'; expected one of 'none', 'sigmoid'."),
        ("ppo.score.shape=sigmoid ppo.rewards.own=own.py:f ppo.reward_weights.model=0.0 value.init=sft",
         "ppo.score.shape='sigmoid' is of ICE-Reward's score, and PPO has no reward model; leave it out."),
        ("ppo.entropy_coef=-0.1", "ppo.entropy_coef=-0.1; expected 0 or more."),
        ("ppo.lam_alpha=-1.0", "ppo.lam_alpha=-1.0; expected 0 or more."),
        ("ppo.value_lam=1.5", "ppo.value_lam=1.5; expected -1, or 0 to 1."),
        ("ppo.value_lam=-0.5", "ppo.value_lam=-0.5; expected -1, or 0 to 1."),
    ],
)  # fmt: skip
def test_what_does_not_go_with_an_estimator_is_one_sentence(overrides, message):
    with pytest.raises(UserError) as refused:
        check(overrides)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


@pytest.mark.parametrize("cliprange, doubted", [(0.2, True), (3e-4, False)])
def test_a_clip_range_of_tokens_for_whole_answers_is_a_doubt(cliprange, doubted):
    ppo = PPOOptions(iterations=1, estimator="gspo", samples_per_prompt=4, cliprange=cliprange)
    said = checks.doubts(RewardOptions(), ppo, longest=1, weight=0.0)
    assert any("ppo.cliprange=0.2 with ppo.estimator='gspo'" in one for one in said) == doubted


def test_an_estimator_adds_up_as_its_paper_unless_a_key_says_otherwise():
    assert {name: aggregation_of(PPOOptions(estimator=name)) for name in ESTIMATORS} == {
        "gae": "token", "rloo": "constant", "grpo": "sequence", "dr_grpo": "constant", "reinforce_pp": "token",
        "gspo": "sequence",
    }  # fmt: skip
    assert aggregation_of(PPOOptions(estimator="grpo", loss_aggregation="token")) == "token"
    assert [name for name, found in ESTIMATORS.items() if found.critic] == ["gae"]
