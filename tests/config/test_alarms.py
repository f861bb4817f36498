"""What is refused of `ppo.alarms`."""

import re

import pytest

from icegrt_jax.config import read
from icegrt_jax.config.checks import check
from icegrt_jax.config.file import load_config
from icegrt_jax.errors import UserError
from tests.config.test_options import QUICKSTART


@pytest.mark.parametrize(
    "overrides, said",
    [
        ("off=('few_eoss',)", "ppo.alarms.off: no alarm is called 'few_eoss'; did you mean few_eos?"),
        ("stop=('all',)", "ppo.alarms.stop: no alarm is called 'all'; expected some of over_optimised, "),
        ("off=('few_eos',) stop=('few_eos',)", "ppo.alarms.stop: few_eos is in ppo.alarms.off as well"),
        ("window=1", "ppo.alarms.window=1; expected 2 or more."),
        ("errors=-1", "ppo.alarms.errors=-1.0; expected 0 or more."),
        ("gold_fall=2", "ppo.alarms.gold_fall=2.0; expected 0 to 1."),
        ("length_growth=1", "ppo.alarms.length_growth=1.0; expected a number above 1."),
        ("reward_every=-1", "ppo.alarms.reward_every=-1; expected 0 or more."),
        ("reward_every=5", "ppo.alarms.reward_every=5 with ppo.samples_per_prompt=1: answers to different prompts"),
    ],
)
def test_alarms_that_could_not_be_raised_are_refused(overrides, said):
    config = load_config(QUICKSTART, [f"--config.ppo.alarms.{override}" for override in overrides.split()])
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        check(read(config))


@pytest.mark.parametrize("name, value", [("judge", "''"), ("alarms.reward_k", 1)])
def test_a_look_at_the_reward_model_needs_a_judge_and_pairs(name, value):
    asked = ["ppo.alarms.reward_every=5", "ppo.heldout.ads=jsonl:a.jsonl"]
    check(read(load_config(QUICKSTART, [f"--config.{key}" for key in asked])))
    with pytest.raises(UserError, match=f"ppo.{name}"):
        check(read(load_config(QUICKSTART, [f"--config.{key}" for key in (*asked, f"ppo.{name}={value}")])))
