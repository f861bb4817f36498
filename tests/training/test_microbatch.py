"""A batch a few rows at a time gives what the whole batch gives, and stays where it lies."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from icegrt_jax.sharding.mesh import BATCH_AXES, make_mesh
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.sharding.steps import jit_step
from icegrt_jax.training.microbatch import block_count, join_rows, joined, split_rows
from icegrt_jax.training.ppo import score
from icegrt_jax.training.updates import policy_update, policy_value_update, reward_update, sft_update, value_update
from tests.training.examples import (
    B,
    make_experience,
    make_ranking_batch,
    make_rollout,
    make_sft_batch,
    make_state,
)
from tests.training.parts import shared_state

PPO = {"ptx_coef": 0.5, "kl_in": "loss", "kl_kind": "k2", "dual_clip": 3.0}
UPDATES = {
    "sft": (sft_update, make_sft_batch),
    "reward": (reward_update, make_ranking_batch),
    "policy": (policy_update, lambda: make_experience(ptx=True)),
    "value": (value_update, make_experience),
}


def test_blocks_divide_the_batch_or_are_all_of_it():
    assert [block_count(12, size) for size in (0, 12, 16, 4, 1)] == [1, 1, 1, 3, 12]
    with pytest.raises(ValueError, match="12 rows do not divide into blocks of 5; use a divisor of 12"):
        block_count(12, 5)


def test_rows_are_dealt_out_and_come_back():
    rows = {"a": jnp.arange(12), "b": jnp.arange(24).reshape(12, 2)}
    blocks = split_rows(rows, 3)
    assert blocks["a"].tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    chex.assert_trees_all_equal(join_rows(blocks), rows)
    chex.assert_trees_all_equal(joined(lambda block: block, rows, 3), rows)


@pytest.mark.parametrize("name", UPDATES)
def test_microbatches_make_the_update_of_the_whole_batch(name):
    """The rows differ much in how many tokens count, so a mean of the blocks' means would be another number."""
    step, batch = UPDATES[name]
    state = make_state(**PPO)
    whole = jax.jit(step)(state, batch())
    parts = jax.jit(step)(state.replace(microbatch=4), batch())
    chex.assert_trees_all_close(parts[1], whole[1], atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(parts[0].params, whole[0].params, atol=1e-5)
    chex.assert_trees_all_close(parts[0].opt_state, whole[0].opt_state, atol=1e-5)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole[0].params, state.params)
    assert max(jax.tree.leaves(moved)) > 0.01


def test_a_critic_on_the_actors_trunk_learns_the_same_in_microbatches():
    state = shared_state(head_only=True, num_minibatches=2)
    whole = jax.jit(policy_value_update)(state, make_experience())
    parts = jax.jit(policy_value_update)(state.replace(microbatch=2), make_experience())
    chex.assert_trees_all_close(parts[1], whole[1], atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(parts[0].params, whole[0].params, atol=1e-5)


def test_a_rollout_scored_in_blocks_has_the_scores_of_the_whole():
    state = make_state(reference_seed=5, score_scale="running_std", recompute_logprobs=True)
    rollout = make_rollout(state)
    whole = jax.jit(score)(state, rollout)
    in_blocks = state.replace(ppo=dataclasses.replace(state.ppo, score_batch=4))
    parts = jax.jit(score)(in_blocks, rollout)
    chex.assert_trees_all_close(parts[1:], whole[1:], atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(parts[0].score_stats, whole[0].score_stats, atol=1e-5)


def test_microbatches_on_a_mesh_make_the_update_of_one_device():
    mesh = make_mesh(2, 2, 2)
    state, batch = make_state(), make_sft_batch()
    whole = jax.jit(sft_update)(state, batch)
    placed = shard_tree(state.replace(microbatch=8, key=jax.random.clone(state.key)), mesh)
    updated, metrics = jit_step(sft_update, mesh, placed)(placed, shard_batch(batch, mesh))
    chex.assert_trees_all_close(jax.device_get(metrics), jax.device_get(whole[1]), atol=1e-5, rtol=1e-5)
    for a, b in zip(*(jax.tree.leaves(s.params["policy"]) for s in (updated, whole[0])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_dealing_out_a_split_batch_moves_no_row_between_devices():
    mesh = make_mesh(2, 4, 1)
    rows = jax.ShapeDtypeStruct((B, 3), jnp.float32, sharding=jax.NamedSharding(mesh, P(BATCH_AXES)))
    with jax.set_mesh(mesh):
        text = jax.jit(lambda x: joined(lambda block: 2 * block, x, 2)).lower(rows).compile().as_text()
    assert "while" in text and not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
