"""Roles that are parts of others: adapters on a frozen tree, a critic that is a head on the actor."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.models.heads import scalars, trunk
from icegrt_jax.models.lora import init_adapter
from icegrt_jax.models.tree import flatten
from icegrt_jax.rl import ppo_value_loss
from icegrt_jax.training.first_check import check_first_rollout
from icegrt_jax.training.forward import rows_hidden
from icegrt_jax.training.packing import pack_experience
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.state import trained, with_trained
from icegrt_jax.training.updates import policy_update, policy_value_update, value_update
from tests.training.examples import POLICY, make_experience, make_policy, make_rollout, make_state
from tests.training.parts import LORA, UNCLIPPED, adapted_state, shared_state


def gradient(state, role):
    """The gradient of the first update, read off Adam's first moment."""
    return jax.tree.map(lambda mu: mu / (1 - UNCLIPPED.b1), state.opt_state[role][0].mu)


def test_an_adapters_gradient_is_the_weights_gradient_through_the_product():
    batch = make_experience()
    full, _ = jax.jit(policy_update)(make_state(optimizer=UNCLIPPED), batch)
    adapted, _ = jax.jit(policy_update)(adapted_state(), batch)
    of_weights, of_adapter = flatten(gradient(full, "policy")), flatten(gradient(adapted, "policy"))
    adapter = flatten(init_adapter(jax.random.key(5), make_policy(0), LORA))
    checked = 0
    for path, got in of_adapter.items():
        module, _, side = path.rpartition("/")
        if side == "lora_a":
            np.testing.assert_array_equal(got, 0.0)  # B is 0
            continue
        a, dw = (np.asarray(x, np.float64) for x in (adapter[f"{module}/lora_a"], of_weights[f"{module}/kernel"]))
        np.testing.assert_allclose(got, LORA.scale * a.swapaxes(-1, -2) @ dw, rtol=1e-3, atol=1e-5)
        checked += np.abs(got).max() > 1e-4
    assert checked == 7


def test_the_frozen_trees_stay_as_they_are_bit_for_bit():
    state = shared_state("int8")
    before = jax.device_get({role: state.params[role] for role in ("base", "reward")})
    after, metrics = jax.jit(ppo_update)(state, make_experience())
    chex.assert_trees_all_equal(jax.device_get({role: after.params[role] for role in before}), before)
    assert set(after.opt_state) == {"policy", "value"}
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), after.params["policy"], state.params["policy"])
    assert max(jax.tree.leaves(moved)) > 0 and metrics["value_grad_norm"] > 0


@pytest.mark.parametrize("base_dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("head_only", [False, True], ids=["adapter", "head"])
def test_the_first_update_has_ratio_one_and_no_kl(base_dtype, head_only):
    state = shared_state(base_dtype, head_only)
    rollout = make_rollout(state.replace(params={**state.params, "policy": state.full("policy")}))
    check_first_rollout(state, rollout)
    state, experience, scored = jax.jit(score)(state, rollout)
    _, metrics = jax.jit(ppo_update)(state, experience)
    np.testing.assert_allclose(scored["kl"], 0.0, atol=1e-5)
    assert metrics["first_ratio_error"] < 1e-5


def test_a_head_on_the_actor_adds_the_value_gradient_to_the_trunk():
    state, batch = shared_state(head_only=True), make_experience()
    joint, metrics = jax.jit(policy_value_update)(state, batch)
    alone, _ = jax.jit(policy_update)(state, batch)
    only_head, value_metrics = jax.jit(value_update)(state, batch)

    def value_loss(own):
        policy = state.replace(params={**state.params, "policy": own}).full("policy")
        rows = pack_experience(batch)
        values = scalars(state.full("value"), rows_hidden(policy, POLICY, rows.packed))[:, :-1]
        mask, clip = rows.packed.mask[:, 1:], state.ppo.cliprange_value
        return ppo_value_loss(values, rows.values[:, 1:], rows.returns[:, 1:], mask, cliprange_value=clip)[0]

    extra = jax.grad(value_loss)(state.params["policy"])
    expected = jax.tree.map(lambda p, v: p + 0.3 * v, gradient(alone, "policy"), extra)
    chex.assert_trees_all_close(gradient(joint, "policy"), expected, atol=2e-5)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(extra)) > 1e-3
    scaled = jax.tree.map(lambda x: 0.3 * x, gradient(only_head, "value"))
    chex.assert_trees_all_close(gradient(joint, "value"), scaled, atol=2e-5)
    np.testing.assert_allclose(metrics["value_loss"], value_metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], metrics["policy_loss"] + 0.3 * metrics["value_loss"], rtol=1e-5)


@pytest.mark.parametrize("head_only", [False, True], ids=["adapter", "head"])
def test_the_actor_waits_while_the_critic_warms_up(head_only):
    state = shared_state(head_only=head_only, value_warmup=1)
    waiting, _ = jax.jit(ppo_update)(state, make_experience())
    chex.assert_trees_all_equal(waiting.params["policy"], state.params["policy"])
    assert float(jnp.abs(waiting.params["value"]["head"]["kernel"] - state.params["value"]["head"]["kernel"]).max()) > 0
    learning, _ = jax.jit(ppo_update)(waiting, make_experience())
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient(learning, "policy"))) > 0


def test_a_checkpoint_holds_what_is_trained_only():
    state = shared_state()
    kept = trained(state)
    assert set(kept.params) == {"policy", "value"}
    chex.assert_trees_all_equal(with_trained(state, kept).params, state.params)


def test_a_complete_critic_has_the_trunk_of_its_base():
    state = shared_state()
    whole = trunk(state.full("value"))
    np.testing.assert_array_equal(whole["embed"]["embedding"], state.params["base"]["embed"]["embedding"])
    assert {path.rpartition("/")[2] for path in flatten(whole)} >= {"lora_a", "lora_b"}
