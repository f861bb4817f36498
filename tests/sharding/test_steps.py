"""One step function, compiled for one device, for meshes of eight and by pmap: the same result."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from icegrt_jax.errors import UserError
from icegrt_jax.rl import ranked_pairs
from icegrt_jax.sharding.mesh import AXES, make_mesh
from icegrt_jax.sharding.pmap import pmap_step, replicate, split_batch, unreplicate
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.sharding.rules import tree_shardings
from icegrt_jax.sharding.steps import jit_step
from icegrt_jax.training import ppo
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.updates import policy_update, policy_value_update, reward_update, sft_update, value_update
from tests.training.examples import (
    OPTIMIZER,
    B,
    T,
    make_experience,
    make_ranking_batch,
    make_rollout,
    make_sft_batch,
    make_state,
)
from tests.training.parts import shared_state

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


def test_a_step_is_compiled_once_whatever_the_first_state_lies_on(initial):
    mesh = make_mesh(2, 4, 1)
    compiled = []

    def listen(event, duration, *, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration" and fun_name == "jit(compiled)":
            compiled.append(fun_name)

    counted = lambda state, batch: (state.replace(step=state.step + 1), batch.sum())
    step, batch = jit_step(counted, mesh, initial), shard_batch(np.ones((8, 4), np.float32), mesh)
    state = jax.tree.map(jnp.asarray, initial)  # all of it on the first device
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for _ in range(3):
            state, total = step(state, batch)
        state, _ = jit_step(counted, make_mesh(2, 4, 1), state)(state, batch)  # the next training in this process
        assert len(compiled) == 1 and state.step == 4 and total == 32
        jit_step(counted, make_mesh(4, 2, 1), state)(state, shard_batch(batch, make_mesh(4, 2, 1)))
        assert len(compiled) == 2, "on another mesh"
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def rollout(initial):
    return jax.device_get(make_rollout(initial))


# Four updates one after the other: smaller steps keep their rounding from growing.
GENTLE = dataclasses.replace(OPTIMIZER, lr=0.02)
PPO_STATE = dict(
    optimizer=GENTLE, num_ppo_epochs=2, num_minibatches=2, ptx_coef=0.3, score_scale="running_mean_std",
    eos_penalty=0.5, whiten_rewards=True, kl_in="loss", kl_kind="exact",
)  # fmt: skip


@pytest.fixture(scope="module")
def iteration(rollout):
    """An iteration of PPO on one device: the state after it, its experience and its metrics."""
    return to_host_all(run_iteration(None, rollout))


def run_iteration(shape, rollout):
    mesh = one_device_mesh() if shape is None else make_mesh(*shape)
    state = to_host(make_state(**PPO_STATE))
    state, experience, scored = jit_step(score, mesh, state)(state, shard_batch(rollout, mesh))
    experience = experience.replace(ptx=shard_batch(make_sft_batch(), mesh))
    state, learned = jit_step(ppo_update, mesh, state)(state, experience)
    return state, experience, {**scored, **learned}


def to_host_all(results):
    state, *rest = results
    return to_host(state), *jax.device_get(rest)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_an_iteration_of_ppo_is_the_same_on_any_mesh(shape, rollout, iteration, monkeypatch):
    seen = []

    def spy(state, minibatch):
        jax.debug.inspect_array_sharding(minibatch.responses, callback=seen.append)
        return policy_update(state, minibatch)

    monkeypatch.setattr(ppo, "policy_update", spy)
    state, experience, metrics = to_host_all(run_iteration(shape, rollout))
    wanted_state, wanted_experience, wanted_metrics = iteration
    chex.assert_trees_all_close(state.params, wanted_state.params, atol=2e-5, rtol=0)
    chex.assert_trees_all_close(experience, wanted_experience, atol=2e-5, rtol=0)
    chex.assert_trees_all_close(metrics, wanted_metrics, atol=2e-5, rtol=2e-5)
    assert moved(state, to_host(make_state()), "policy") > 0.01
    # Rows picked by a permutation would otherwise be replicated: every device would do all the work.
    rows = B // PPO_STATE["num_minibatches"]
    assert seen and all(s.shard_shape((rows, T))[0] == rows // (shape[0] * shape[1]) for s in seen)


def test_an_iteration_of_ppo_by_pmap_is_that_of_one_device(rollout, iteration):
    """Moments of the scores, whitening, advantages, the KL and the minibatches are those of the global batch."""
    state = replicate(to_host(make_state(**PPO_STATE)))
    state, experience, scored = pmap_step(score)(state, split_batch(rollout))
    experience = experience.replace(ptx=split_batch(make_sft_batch()))
    state, learned = pmap_step(ppo_update)(state, experience)
    for leaf in jax.tree.leaves(jax.device_get((state.params, state.kl, scored, learned))):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape), "the replicas differ")
    wanted_state, wanted_experience, wanted_metrics = iteration
    state = to_host(unreplicate(state))
    chex.assert_trees_all_close(state.params, wanted_state.params, atol=2e-5, rtol=0)
    chex.assert_trees_all_close((state.kl, state.score_stats), (wanted_state.kl, wanted_state.score_stats), rtol=1e-5)
    joined = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), experience)
    chex.assert_trees_all_close(joined, wanted_experience, atol=2e-5, rtol=0)
    metrics = jax.tree.map(lambda x: x[0], jax.device_get({**scored, **learned}))
    chex.assert_trees_all_close(metrics, wanted_metrics, atol=2e-5, rtol=2e-5)


def test_minibatches_that_do_not_divide_are_refused_by_pmap(rollout):
    state = replicate(to_host(make_state(num_minibatches=4)))
    with pytest.raises(UserError, match="batch of 4 does not divide over 8 devices; use a multiple of 8"):
        pmap_step(ppo_update)(state, split_batch(make_experience()))


@pytest.mark.parametrize("head_only", [False, True], ids=["adapters", "head"])
def test_roles_that_are_parts_give_the_same_update_on_a_mesh_and_by_pmap(head_only):
    step = policy_value_update if head_only else policy_update
    initial, batch = to_host(shared_state("int8", head_only)), jax.device_get(make_experience())
    one, metrics = run(step, None, initial, batch)
    wanted = to_host(one), jax.device_get(metrics)
    assert moved(initial, wanted[0], "policy") > 1e-3 and moved(initial, wanted[0], "base") == 0
    for shape in [(2, 2, 2), (1, 8, 1)]:
        assert_same(run(step, shape, initial, batch), wanted)
    replicated, _ = pmap_step(step)(replicate(initial), split_batch(batch))
    chex.assert_trees_all_close(to_host(unreplicate(replicated)).params, wanted[0].params, atol=1e-5, rtol=0)
