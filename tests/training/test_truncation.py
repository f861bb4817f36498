"""Answers that are cut off: they are scored once, like any other, and pay `eos_penalty` for it."""

import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.training.optimizers import OptimizerConfig
from tests.training.toys import toy_state, train

SAMPLER = SamplerConfig(max_new_tokens=5, eos_ids=(3,))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_values_reach_the_true_return_and_answers_do_not_learn_never_to_stop(penalty):
    """Every answer scores 1. To add the critic's value of what would follow the cut pays a cut-off answer twice."""
    optimizer = OptimizerConfig(lr=5e-3, total_steps=150)
    state = toy_state(optimizer, kl_coef=0.01, eos_penalty=penalty)
    everywhere_one = lambda rollout: jnp.ones(len(rollout.mask))
    _, metrics = train(state, SAMPLER, everywhere_one, rows=64, iterations=150)
    first, last = ({name: float(jnp.mean(metrics[name][part])) for name in ("eos_rate", "value", "rewards")}
                   for part in (slice(0, 10), slice(-10, None)))  # fmt: skip
    assert 0.1 < first["eos_rate"] < 0.9, "both endings should occur"
    np.testing.assert_allclose(last["value"], last["rewards"], atol=0.1)
    assert last["eos_rate"] > first["eos_rate"] - 0.1
    assert not penalty or last["eos_rate"] > 0.9
