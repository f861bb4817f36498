"""The state of a run as a tree."""

import chex
import jax
import jax.numpy as jnp

from icegrt_jax.training.state import PPOConfig
from tests.training.examples import OPTIMIZER, PLAIN_SCORES, POLICY, SCALAR, make_experience, make_scalar, make_state


def test_a_new_state_is_at_step_0_with_an_optimizer_for_each_trained_role():
    state = make_state()
    assert state.step == 0 and state.step.dtype == jnp.int32
    assert set(state.params) == {"policy", "value", "reward", "reference"}
    assert set(state.opt_state) == {"policy", "value", "reward"}, "the reference is never trained"
    for role in state.opt_state:
        moments = state.opt_state[role][1][0]
        chex.assert_trees_all_equal_shapes(moments.mu, state.params[role])
        assert all((leaf == 0).all() for leaf in jax.tree.leaves((moments.mu, moments.nu)))


def test_what_is_static_stays_out_of_the_tree():
    state = make_state(cliprange=0.3)
    leaves = jax.tree.leaves(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert (state.model("policy"), state.model("value")) == (POLICY, SCALAR)
    assert state.ppo == PPOConfig(cliprange=0.3, **PLAIN_SCORES) and state.axis_name is None
    hash((state.models, state.optimizers, state.ppo))  # the compiler's key
    assert jax.tree.structure(state) == jax.tree.structure(make_state(cliprange=0.3))
    assert jax.tree.structure(state) != jax.tree.structure(make_state(cliprange=0.2))


def test_the_optimizer_of_a_role_is_the_one_it_was_made_with():
    state = make_state()
    params = make_scalar(4)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = state.optimizer("value").update(grads, state.opt_state["value"], params)
    assert jnp.abs(updates["head"]["bias"]).max() <= OPTIMIZER.lr


def test_no_two_arrays_of_a_state_share_memory():
    """The steps donate the state, and a buffer cannot be donated twice."""
    leaves = [
        leaf for leaf in jax.tree.leaves(make_state()) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_an_experience_without_replay_has_no_empty_leaf():
    assert len(jax.tree.leaves(make_experience())) == 9
    assert len(jax.tree.leaves(make_experience(ptx=True))) == 13
