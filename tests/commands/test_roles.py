"""The roles as PPO starts with them."""

import pytest

from icegrt_jax.config import default_config
from icegrt_jax.training.optimizers import OptimizerConfig, learning_rate
from tests.plan.examples import ppo_state


@pytest.mark.parametrize("value_warmup", [0, 3])
def test_a_schedule_ends_with_the_last_update_of_its_role(value_warmup):
    config = default_config()
    config.ppo.iterations, config.ppo.num_ppo_epochs, config.ppo.num_minibatches = 10, 2, 4
    config.ppo.value_warmup = value_warmup
    for role in ("policy", "value"):
        config.ppo[f"{role}_optimizer"].update({"warmup_steps": 4, "schedule": "cosine", "final_lr_fraction": 0.1})
    optimizers: dict[str, OptimizerConfig] = dict(ppo_state(config).optimizers)
    made = {"policy": (10 - value_warmup) * 8, "value": 80}
    for role, updates in made.items():
        rate, peak = learning_rate(optimizers[role]), optimizers[role].lr
        assert rate(4) == pytest.approx(peak) and rate(updates) == pytest.approx(0.1 * peak, rel=1e-4), role
        assert rate(updates - 1) > 0.1 * peak, role
