"""An update whose loss or gradient is not finite is skipped and counted, and one that is finite is what it was."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.training import updates
from icegrt_jax.training.ppo import ppo_update
from icegrt_jax.training.ppo_metrics import said
from icegrt_jax.training.updates import sft_update, value_update
from tests.training.examples import OPTIMIZER, make_experience, make_sft_batch, make_state

SCHEDULED = dataclasses.replace(OPTIMIZER, schedule="linear", total_steps=10)


@pytest.fixture(scope="module")
def state():
    return make_state(optimizer=SCHEDULED, num_minibatches=2)


def spoiled(state, role, value):
    """The state with one number in the last matrix of a role's model that makes its loss not finite."""
    last = "embed" if role == "policy" else "head"
    matrix = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(value), state.params[role][last])
    return state.replace(params={**state.params, role: {**state.params[role], last: matrix}})


STEPS = {
    "policy": (sft_update, make_sft_batch),
    "value": (value_update, make_experience),
}


def moments(opt_state):
    """The optimizer's state without its counts of updates."""
    return [leaf for leaf in jax.tree.leaves(opt_state) if leaf.ndim]


def places(opt_state):
    """The counts in the optimizer's state: updates made, and the place in the schedule."""
    return sorted(int(leaf) for leaf in jax.tree.leaves(opt_state) if not leaf.ndim)


@pytest.mark.parametrize("role, value", [("policy", jnp.nan), ("value", jnp.inf)])
def test_a_skipped_update_leaves_parameters_and_moments_and_has_its_place_in_the_schedule(state, role, value):
    update, batch = STEPS[role]
    before = spoiled(state, role, value)
    after, metrics = jax.jit(update)(before, batch())
    chex.assert_trees_all_equal(after.params[role], before.params[role])
    chex.assert_trees_all_equal(moments(after.opt_state[role]), moments(before.opt_state[role]))
    assert (places(before.opt_state[role]), places(after.opt_state[role])) == ([0, 0], [0, 1])
    assert metrics["skipped"] == 1 and all(np.isfinite(value) for value in metrics.values())
    assert metrics["loss"] == metrics["grad_norm"] == 0


def finite_or_not(monkeypatch, update, state, batch):
    """(state, metrics) of an update, and of the program in which everything counts as finite: nothing is selected."""
    guarded = jax.jit(update)(state, batch)
    monkeypatch.setattr(updates.jnp, "isfinite", lambda x: jnp.ones(x.shape, bool))
    return guarded, jax.jit(lambda *args: update(*args))(state, batch)


@pytest.mark.parametrize("role", STEPS)
def test_a_finite_update_has_the_bits_it_would_have_without_the_look(state, role, monkeypatch):
    update, batch = STEPS[role]
    one, other = finite_or_not(monkeypatch, update, state, batch())
    chex.assert_trees_all_equal(one, other)
    assert one[1]["skipped"] == 0 and one[1]["grad_norm"] > 0
    assert not np.array_equal(jax.tree.leaves(one[0].params[role])[0], jax.tree.leaves(state.params[role])[0])


def with_bad_row(experience):
    """The experience with an advantage that is no number: of the two minibatches one holds it."""
    return experience.replace(advantages=experience.advantages.at[0, 0].set(jnp.nan))


def test_of_the_updates_of_an_iteration_the_bad_one_is_skipped_and_in_no_mean(state):
    experience = make_experience()
    update = jax.jit(ppo_update)
    fine, all_of_it = update(state, experience)
    after, metrics = update(state, with_bad_row(experience))
    assert sorted(np.asarray(metrics["skipped"]).tolist()) == [0, 1] and metrics["updates"] == 1
    assert not np.any(metrics["value_skipped"]), "the critic learns from returns"
    assert not np.any(all_of_it["skipped"]) and all_of_it["updates"] == 2
    chex.assert_trees_all_equal(after.params["value"], fine.params["value"])
    chex.assert_tree_all_finite((after.params, after.opt_state))
    row = said(jax.device_get(metrics), metrics)
    assert row["skipped"].sum() == 1 and row["ratio"] > 0 and row["entropy"] > 0
    assert all(np.all(np.isfinite(value)) for value in row.values())


def test_an_iteration_without_an_update_of_the_actor_has_no_means_of_it(state):
    metrics = {"policy_loss": 0.0, "ratio": 0.0, "value_loss": 0.5, "updates": 0.0, "score_raw": 1.0}
    flags = {"skipped": np.ones(2), "value_skipped": np.zeros(2)}
    row = said(metrics | flags, {**metrics, **flags}.keys() - {"score_raw"})
    assert {**row, "skipped": row["skipped"].tolist()} == {
        "value_loss": 0.5, "updates": 0.0, "score_raw": 1.0, "skipped": [1, 1],
    }  # fmt: skip
    both = said(metrics | flags | {"value_skipped": np.ones(2)}, metrics.keys() - {"score_raw"})
    assert both.keys() == {"updates", "score_raw", "skipped"}
