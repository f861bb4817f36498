"""An iteration of an estimator without a critic: the same on one device, on a mesh and by pmap."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.sharding.pmap import pmap_step, replicate, split_batch, unreplicate
from icegrt_jax.sharding.put import shard_batch
from icegrt_jax.sharding.steps import jit_step
from icegrt_jax.training.ppo import ppo_update, score
from tests.sharding.test_steps import moved, one_device_mesh, to_host
from tests.training.examples import OPTIMIZER, B, make_rollout, make_state
from tests.training.test_estimators import GROUP, make

OPTIONS = dict(
    optimizer=dataclasses.replace(OPTIMIZER, lr=0.02), num_minibatches=2, filter_groups=True, filter_overlong=True,
    entropy_coef=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def rollout():
    return jax.device_get(make_rollout(make_state()))


def scores():
    """The first prompt's answers are all alike."""
    return np.concatenate([np.full(GROUP, 0.5), np.arange(B - GROUP)]).astype(np.float32)


def iterate(estimator, mesh, rollout):
    state = to_host(make(estimator, **OPTIONS))
    state, experience, scored = jit_step(score, mesh, state)(state, *shard_batch((rollout, scores()), mesh))
    state, learned = jit_step(ppo_update, mesh, state)(state, experience)
    return to_host(state), jax.device_get({**scored, **learned})


@pytest.mark.parametrize("estimator", ["gspo", "rloo"])
def test_an_iteration_without_a_critic_is_the_same_on_a_mesh_and_by_pmap(estimator, rollout):
    """Groups lie across devices, and whole answers have one ratio wherever their rows are."""
    wanted_state, wanted = iterate(estimator, one_device_mesh(), rollout)
    state, metrics = iterate(estimator, make_mesh(2, 2, 2), rollout)
    chex.assert_trees_all_close(state.params, wanted_state.params, atol=2e-5, rtol=0)
    chex.assert_trees_all_close(metrics, wanted, atol=2e-5, rtol=2e-5)
    assert moved(state, to_host(make(estimator)), "policy") > 0.01 and metrics["group_flat"] == GROUP / B

    state = replicate(to_host(make(estimator, **OPTIONS)))
    state, experience, scored = pmap_step(score)(state, split_batch(rollout), split_batch(scores()))
    state, learned = pmap_step(ppo_update)(state, experience)
    chex.assert_trees_all_close(to_host(unreplicate(state)).params, wanted_state.params, atol=2e-5, rtol=0)
    metrics = jax.tree.map(lambda x: x[0], jax.device_get({**scored, **learned}))
    chex.assert_trees_all_close(metrics, wanted, atol=2e-5, rtol=2e-5)
    assert jnp.isfinite(metrics["policy_loss"])
