"""One step function, compiled for one device, for meshes of eight and by pmap: the same result."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from icegrt_jax.parallel.mesh import AXES, make_mesh
from icegrt_jax.parallel.pmap import pmap_step, replicate, split_batch, unreplicate
from icegrt_jax.parallel.sharding import batch_sharding, shard_batch, shard_tree, tree_shardings
from icegrt_jax.parallel.steps import jit_step
from icegrt_jax.rl import ranked_pairs
from icegrt_jax.training import ppo
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.updates import policy_update, reward_update, sft_update, value_update
from tests.training.examples import make_experience, make_ranking_batch, make_rollout, make_sft_batch, make_state

MESHES = [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)]
on_meshes = pytest.mark.parametrize("shape", MESHES, ids=str)
PPO = {"ptx_coef": 0.5, "kl_in": "loss", "kl_kind": "k2", "dual_clip": 3.0}
# role -> step, batch
UPDATES = {
    "sft": ("policy", sft_update, make_sft_batch),
    "reward": ("reward", reward_update, make_ranking_batch),
    "policy": ("policy", policy_update, lambda: make_experience(ptx=True)),
    "value": ("value", value_update, make_experience),
}
ARRAYS = ("step", "params", "opt_state", "kl", "score_stats")  # of a state; its key stays a jax.Array
each_update = pytest.mark.parametrize("name", UPDATES)


@pytest.fixture(scope="module")
def initial():
    """The state every update starts from, on the host: steps donate what they are given."""
    return to_host(make_state(**PPO))


def to_host(state):
    return state.replace(**jax.device_get({name: getattr(state, name) for name in ARRAYS}))


def one_device_mesh():
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)


def run(step, shape, state, *batch):
    """The step on a mesh of that shape, from host arrays."""
    mesh = one_device_mesh() if shape is None else make_mesh(*shape)
    state = shard_tree(state.replace(key=jax.random.clone(state.key)), mesh)
    return jit_step(step, mesh, state)(state, *(shard_batch(x, mesh) for x in batch))


@pytest.fixture(scope="module")
def expected(initial):
    """{update: (state, metrics)} on one device."""
    results = {name: run(step, None, initial, batch()) for name, (_, step, batch) in UPDATES.items()}
    return {name: (to_host(state), jax.device_get(metrics)) for name, (state, metrics) in results.items()}


def assert_same(got, expected):
    """Parameters and optimizer moments to 1e-5, metrics to 1e-5 of their size."""
    state, metrics = got
    wanted_state, wanted_metrics = expected
    chex.assert_trees_all_close(jax.device_get(state.params), wanted_state.params, atol=1e-5, rtol=0)
    chex.assert_trees_all_close(jax.device_get(state.opt_state), wanted_state.opt_state, atol=1e-5, rtol=0)
    chex.assert_trees_all_close(jax.device_get(metrics), wanted_metrics, atol=1e-5, rtol=1e-5)


def moved(before, after, role) -> float:
    trees = (before.params[role], after.params[role])
    return max(float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, trees)))


@each_update
def test_an_update_moves_its_own_role_and_no_other(name, initial, expected):
    role, _, _ = UPDATES[name]
    state, metrics = expected[name]
    assert moved(initial, state, role) > 0.01, "agreeing within 1e-5 would say little"
    assert all(moved(initial, state, other) == 0 for other in {"policy", "value", "reward", "reference"} - {role})
    assert metrics["loss"] != 0


@pytest.mark.parametrize("valid", [
    make_sft_batch()["loss_mask"][:, 1:],
    make_experience().mask,
    ranked_pairs(make_ranking_batch()["ranks"], make_ranking_batch()["valid"]).any(axis=(1, 2)),
], ids=["sft", "experience", "ranking"])  # fmt: skip
def test_the_batches_are_uneven_enough_to_tell_a_mean_of_device_means(valid):
    per_device = valid.reshape(8, -1).sum(axis=1)
    assert per_device.max() >= 2 * max(per_device.min(), 1)


@on_meshes
@each_update
def test_a_mesh_of_eight_devices_makes_the_update_of_one(name, shape, initial, expected):
    _, step, batch = UPDATES[name]
    state, metrics = run(step, shape, initial, batch())
    assert_same((state, metrics), expected[name])
    # The result lies where the table says, so that the next step need not move it.
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(tree_shardings(state, make_mesh(*shape)))):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (leaf.shape, leaf.sharding, sharding)


@each_update
def test_pmap_makes_the_update_of_one_device(name, initial, expected):
    _, step, batch = UPDATES[name]
    state, metrics = pmap_step(step)(replicate(initial), split_batch(batch()))
    for leaf in jax.tree.leaves(jax.device_get((state.params, metrics))):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape), "the replicas differ")
    metrics = jax.tree.map(lambda x: x[0], jax.device_get(metrics))
    assert_same((unreplicate(state), metrics), expected[name])
