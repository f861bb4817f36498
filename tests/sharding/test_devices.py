"""The same seed gives the same run on any number of devices: samples equal, updates within a float32 tolerance."""

import chex
import jax
import numpy as np
import pytest

from icegrt_jax.sampling import SamplerConfig, compiled_sampler, sequence_keys
from icegrt_jax.sampling.layout import rollout_layout, to_rollout
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.sharding.steps import jit_step
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.updates import reward_update, sft_update
from tests.training.examples import (
    EOS_ID,
    POLICY,
    B,
    T,
    make_prompts,
    make_ranking_batch,
    make_sft_batch,
    make_state,
)

# (data, fsdp, tensor) over the first of the devices
SHAPES = [(2, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2), (1, 8, 1)]
SAMPLER = SamplerConfig(max_new_tokens=T, eos_ids=(EOS_ID, 7))
PPO = dict(num_ppo_epochs=2, num_minibatches=2, ptx_coef=0.3, score_scale="running_mean_std", eos_penalty=0.5)
# Of parameters, values and advantages; of metrics also relative to their size. Adam's steps are of 0.1.
TOLERANCE = 5e-5


def run_all(shape):
    """Samples, experience, metrics and parameters of an SFT update, a reward update and an iteration of PPO."""
    mesh = make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])

    def state():
        return shard_tree(make_state(**PPO), mesh)

    sft, sft_metrics = jit_step(sft_update, mesh, state())(state(), shard_batch(make_sft_batch(), mesh))
    reward, reward_metrics = jit_step(reward_update, mesh, state())(state(), shard_batch(make_ranking_batch(), mesh))
    ppo = state()
    layout = rollout_layout(mesh, POLICY, ppo.params["policy"])
    policy = to_rollout(ppo.params["policy"], POLICY, mesh, layout)
    keys, (prompts, mask) = shard_batch((sequence_keys(jax.random.key(1), 0, B), make_prompts()), layout)
    with jax.set_mesh(layout):
        rollout = compiled_sampler(keys, policy, prompts, mask, model=POLICY, config=SAMPLER)
    ppo, experience, scored = jit_step(score, mesh, ppo)(ppo, shard_batch(rollout, mesh))
    experience = experience.replace(ptx=shard_batch(make_sft_batch(), mesh))
    ppo, learned = jit_step(ppo_update, mesh, ppo)(ppo, experience)
    metrics = {"sft": sft_metrics, "reward": reward_metrics, "score": scored, "ppo": learned}
    params = {"sft": sft.params["policy"], "reward": reward.params["reward"], "ppo": ppo.params}
    return jax.device_get((rollout, experience, metrics, params))


@pytest.fixture(scope="module")
def alone():
    return run_all((1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_stage_is_the_same_on_any_number_of_devices(shape, alone):
    rollout, experience, metrics, params = run_all(shape)
    wanted_rollout, wanted_experience, wanted_metrics, wanted_params = alone
    np.testing.assert_array_equal(rollout.responses, wanted_rollout.responses)
    np.testing.assert_array_equal(rollout.mask, wanted_rollout.mask)
    np.testing.assert_allclose(rollout.logprobs, wanted_rollout.logprobs, atol=TOLERANCE)
    chex.assert_trees_all_close(experience, wanted_experience, atol=TOLERANCE, rtol=0)
    chex.assert_trees_all_close(metrics, wanted_metrics, atol=TOLERANCE, rtol=TOLERANCE)
    chex.assert_trees_all_close(params, wanted_params, atol=TOLERANCE, rtol=0)
