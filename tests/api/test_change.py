"""Options of PPO that change while a training goes on: what follows, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax.api import change
from icegrt_jax.rl import AdaptiveKL

# As in the example of `Training.change`, so that hardly anything is compiled anew.
FEW = dict(iterations=3, batch_size=8, max_response_length=4, kl={"coef": 0.1, "adaptive": False})


def short(prompts, responses, records):
    return [-len(text) for text in responses]


def count_a(prompts, responses, records):
    return [float(text.count("a")) for text in responses]


def begun(steps=1, **options):
    training = ice.ppo(ice.load_model("models/policy"), ["the cat", "the end"], reward=short, **{**FEW, **options})
    for _ in range(steps):
        next(training)
    return training


def leaves(training):
    return jax.tree.leaves(training.model.params)


def test_a_changed_coefficient_changes_the_curve_and_nothing_before_it(here):
    alone, changed = begun(2), begun(2)
    changed.change(kl={"coef": 5.0})
    assert alone.metrics == changed.metrics
    jax.tree.map(np.testing.assert_array_equal, leaves(alone), leaves(changed))
    alone.finish(), changed.finish()
    assert [row["kl_coef"] for row in changed.metrics] == pytest.approx([0.1, 0.1, 5.0])
    assert alone.metrics[-1]["kl"] == changed.metrics[-1]["kl"], "of what both have sampled"
    assert alone.metrics[-1]["rewards"] != changed.metrics[-1]["rewards"]
    assert any(np.any(a != b) for a, b in zip(leaves(alone), leaves(changed)))
    assert changed.changes == [(2, {"kl": {"coef": 5.0}})] and alone.changes == []


def test_a_step_with_other_options_is_the_step_of_a_training_that_began_with_them(here):
    options = {"whiten_rewards": True, "policy_optimizer": {"lr": 1e-2}}
    first, changed = begun(**options), begun(0)
    changed.change(**options)
    next(changed)
    jax.tree.map(np.testing.assert_array_equal, leaves(first), leaves(changed))
    first.close(), changed.close()


def test_another_function_takes_the_place_of_the_first_under_its_name(here):
    training = begun()
    training.change(reward=count_a)
    _, metrics, rollout = next(training)
    assert rollout.opinions == {"short": [float(text.count("a")) for text in rollout.text]}
    assert metrics["reward/short"] == pytest.approx(np.mean(rollout.opinions["short"]))
    training.finish()


def test_a_coefficient_that_is_steered_goes_on_from_where_it_is():
    before = ice.options.PPOOptions(kl=ice.options.KLOptions(coef=0.1, horizon=50.0))
    steered = AdaptiveKL.create(0.1, horizon=50.0).update(99.0, 8)
    kl = dataclasses.replace(before.kl, target=1.0)
    now = change._controller(steered, before, dataclasses.replace(before, kl=kl))
    assert float(now.kl_coef) == float(steered.kl_coef) != pytest.approx(0.1) and now.target == 1.0
    given = change._controller(steered, before, dataclasses.replace(before, kl=dataclasses.replace(kl, coef=0.7)))
    assert float(given.kl_coef) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"batch_size": 4}, "batch_size cannot change while a training goes on; what can: reward, kl"),
        ({"kl": {"coeff": 1.0}}, "unknown key ppo.kl.coeff; did you mean ppo.kl.coef"),
        ({"kl": {"into": "loss"}}, "ppo.kl"),
        ({"score": {"baseline": "reference"}}, "score.baseline cannot change while a training goes on"),
        ({"reward_scales": {"short": "reference"}}, "is measured before the first iteration"),
        ({"reward": {"another": count_a}}, "'another' is no reward function of this training; they are"),
        ({"policy_optimizer": {"max_grad_norm": 0.0}}, "policy_optimizer: clipping or a schedule cannot come or go"),
    ],
)
def test_what_cannot_change_is_refused_and_nothing_has_changed(here, keys, sentence):
    training = begun(0)
    before = training.state
    with pytest.raises(ice.UserError, match=sentence):
        training.change(**keys)
    assert training.state is before and training.changes == []
    training.close()


def test_only_ppo_can_change(here):
    rows = [{"prompt": "the cat", "response": "sat"}] * 8
    training = ice.sft(ice.load_model("models/policy"), rows, steps=1, batch_size=8, length=32)
    with pytest.raises(ice.UserError, match="only a training of ice.ppo can change"):
        training.change(optimizer={"lr": 1.0})
    training.close()
