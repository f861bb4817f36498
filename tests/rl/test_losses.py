import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import rl

from . import references
from .examples import GARBAGE, MASK, rollout, soiled

# Compiled, as they are used: one compilation for each shape instead of one for each operation.
ppo_policy_loss = jax.jit(rl.ppo_policy_loss, static_argnames=("cliprange", "cliprange_high", "dual_clip"))
ppo_value_loss = jax.jit(rl.ppo_value_loss, static_argnames="cliprange_value")
nll_loss = jax.jit(rl.nll_loss)
explained_variance = jax.jit(rl.explained_variance)

policy_loss = functools.partial(ppo_policy_loss, cliprange=0.2, cliprange_high=0.3, dual_clip=1.5)
value_loss = functools.partial(ppo_value_loss, cliprange_value=0.2)


def nll(logprobs, mask, total=None):
    return nll_loss(logprobs, mask, total), {}


LOSSES = [(policy_loss, 3), (value_loss, 3), (nll, 1)]
LOSS_IDS = ["policy", "value", "nll"]


def test_policy_loss_of_a_hand_worked_batch():
    # Ratios 2, 1/2 | 1, 2, 1/2 with cliprange 0.2; objectives min(r A, clip(r) A):
    # A=1: min(2, 1.2) = 1.2; A=1: min(0.5, 0.8) = 0.5 | A=3: 3; A=-1: min(-2, -1.2) = -2; A=-1: min(-0.5, -0.8) = -0.8.
    ratio = jnp.array([[2.0, 0.5, 9.0], [1.0, 2.0, 0.5]])
    advantages = jnp.array([[1.0, 1.0, 9.0], [3.0, -1.0, -1.0]])
    mask = jnp.array([[True, True, False], [True, True, True]])
    loss, metrics = ppo_policy_loss(jnp.log(ratio), jnp.zeros((2, 3)), advantages, mask, cliprange=0.2)
    np.testing.assert_allclose(loss, -(1.2 + 0.5 + 3.0 - 2.0 - 0.8) / 5, rtol=1e-6)
    np.testing.assert_allclose(metrics["ratio"], 6.0 / 5, rtol=1e-6)
    np.testing.assert_allclose(metrics["clip_frac"], 2 / 5, rtol=1e-6)
    # r - 1 - log r: logs of 2 and 1/2 cancel pairwise, leaving 1 - 1/2 + 0 + 1 - 1/2.
    np.testing.assert_allclose(metrics["approx_kl"], 1.0 / 5, rtol=1e-6)


def test_value_loss_of_a_hand_worked_batch():
    # Old values 0, clip 0.5. v=1, R=2: max(1, 1.5^2) = 2.25; v=0.25, R=0.25: 0 | v=2, R=0: max(4, 0.25) = 4.
    values, returns = jnp.array([[1.0, 0.25], [2.0, 9.0]]), jnp.array([[2.0, 0.25], [0.0, 9.0]])
    mask = jnp.array([[True, True], [True, False]])
    loss, metrics = ppo_value_loss(values, jnp.zeros((2, 2)), returns, mask, cliprange_value=0.5)
    np.testing.assert_allclose(loss, 0.5 * (2.25 + 0.0 + 4.0) / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics["value_clip_frac"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics["value_error"], 5.0 / 3, rtol=1e-6)
    np.testing.assert_allclose([metrics["value"], metrics["return"]], [3.25 / 3, 2.25 / 3], rtol=1e-6)
    unclipped, metrics = ppo_value_loss(values, jnp.zeros((2, 2)), returns, mask, cliprange_value=0.0)
    np.testing.assert_allclose(unclipped, 0.5 * (1.0 + 0.0 + 4.0) / 3, rtol=1e-6)
    assert metrics["value_clip_frac"] == 0.0


def test_nll_of_a_hand_worked_batch():
    mask = jnp.array([[True, False], [True, True]])
    np.testing.assert_allclose(nll_loss(jnp.array([[-1.0, -9.0], [-0.5, -3.0]]), mask), 1.5, rtol=1e-6)


@pytest.mark.parametrize(("low", "high", "dual_clip"), [(0.2, None, 0.0), (0.2, 0.28, 0.0), (0.1, None, 1.5)])
def test_policy_loss_equals_the_reference(low, high, dual_clip):
    logprobs, old_logprobs, advantages = rollout(0, 3)
    actual = ppo_policy_loss(
        logprobs, old_logprobs, advantages, MASK, cliprange=low, cliprange_high=high, dual_clip=dual_clip
    )
    expected = references.ppo_policy_loss(
        logprobs, old_logprobs, advantages, MASK, low, low if high is None else high, dual_clip
    )
    assert actual[1].keys() == expected[1].keys()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), actual, expected)


def test_a_value_that_stays_within_the_range_is_not_clipped_by_rounding():
    rng = np.random.default_rng(0)
    values, moves, returns = (rng.normal(0, scale, (64, 512)).astype(np.float32) for scale in (1.0, 0.02, 1.0))
    mask = np.ones((64, 512), bool)
    loss, metrics = ppo_value_loss(values, values - moves, returns, mask, cliprange_value=0.3)
    unclipped, _ = ppo_value_loss(values, values - moves, returns, mask, cliprange_value=0.0)
    assert metrics["value_clip_frac"] == 0.0 and loss == unclipped


@pytest.mark.parametrize("cliprange_value", [0.0, 0.3])
def test_value_loss_equals_the_reference(cliprange_value):
    values, old_values, returns = rollout(1, 3)
    loss, metrics = ppo_value_loss(values, old_values, returns, MASK, cliprange_value=cliprange_value)
    expected_loss, clip_frac = references.ppo_value_loss(values, old_values, returns, MASK, cliprange_value)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["value_clip_frac"], clip_frac, rtol=1e-5)
    np.testing.assert_allclose(metrics["value_error"], references.mean((values - returns) ** 2, MASK), rtol=1e-5)


def test_explained_variance_equals_the_reference():
    values, returns = rollout(2, 2)
    expected = references.explained_variance(values, returns, MASK)
    np.testing.assert_allclose(explained_variance(values, returns, MASK), expected, rtol=1e-5)


def test_explained_variance_tells_good_critics_from_useless_ones():
    (returns,) = rollout(3, 1)
    np.testing.assert_allclose(explained_variance(returns + 1.0, returns, MASK), 1.0, atol=1e-6)
    np.testing.assert_allclose(explained_variance(np.zeros_like(returns), returns, MASK), 0.0, atol=1e-6)
    np.testing.assert_allclose(explained_variance(returns, np.ones_like(returns), MASK), 0.0)
    dirty = explained_variance(*(soiled(x, MASK, np.nan) for x in (returns + 1.0, returns)), MASK)
    np.testing.assert_allclose(dirty, 1.0, atol=1e-6)


@pytest.mark.parametrize(("loss", "inputs"), LOSSES, ids=LOSS_IDS)
def test_padding_changes_neither_loss_nor_gradient_nor_metric(loss, inputs):
    arrays = rollout(4, inputs)
    gradients = jax.jit(jax.value_and_grad(lambda arrays: loss(*arrays, MASK), has_aux=True))
    clean = gradients(list(arrays))
    chex.assert_tree_all_finite(clean)
    for garbage in GARBAGE:
        # Alternating signs: inf - inf is NaN, but inf - -inf overflows, which is another way to go wrong.
        dirty = gradients([soiled(x, MASK, garbage * (-1) ** i) for i, x in enumerate(arrays)])
        chex.assert_trees_all_equal(clean, dirty)


@pytest.mark.parametrize(("loss", "inputs"), LOSSES, ids=LOSS_IDS)
def test_shares_of_devices_add_up_to_the_whole(loss, inputs):
    arrays = list(rollout(5, inputs))
    whole = jax.value_and_grad(lambda arrays: loss(*arrays, MASK), has_aux=True)(arrays)

    def on_device(arrays, mask):
        total = jax.lax.psum(jnp.sum(mask), "device")
        share, gradients = jax.value_and_grad(lambda arrays: loss(*arrays, mask, total=total), has_aux=True)(arrays)
        # These gradients are per row, each row on one device; a parameter's would be summed as the loss is.
        return jax.lax.psum(share, "device"), gradients

    split = jax.jit(jax.vmap(on_device, axis_name="device", out_axes=(None, 0)))(
        [x[:, None] for x in arrays], MASK[:, None]
    )
    split = split[0], [x[:, 0] for x in split[1]]
    chex.assert_trees_all_close(whole, split, atol=1e-6, rtol=1e-5)


def test_shares_under_pmap_add_up_to_the_whole():
    logprobs, old_logprobs, advantages = rollout(6, 3)
    slope = jnp.float32(0.5)
    loss = lambda slope, *batch, total=None: policy_loss(slope * batch[0], *batch[1:], total=total)[0]
    whole = jax.value_and_grad(loss)(slope, logprobs, old_logprobs, advantages, MASK)

    def on_device(slope, *batch):
        total = jax.lax.psum(jnp.sum(batch[-1]), "device")
        return jax.lax.psum(jax.value_and_grad(loss)(slope, *batch, total=total), "device")

    batch = [x[:, None] for x in (logprobs, old_logprobs, advantages, MASK)]  # [4 devices, 1, T]
    split = jax.pmap(on_device, axis_name="device", in_axes=(None, 0, 0, 0, 0))(slope, *batch)
    every_device = jax.tree.map(lambda x: jnp.full((4,), x), whole)
    chex.assert_trees_all_close(every_device, split, rtol=1e-5)


def test_at_ratio_one_the_gradient_is_the_policy_gradient():
    logprobs, advantages = map(jnp.asarray, rollout(7, 2))
    loss = lambda x: policy_loss(x, logprobs, advantages, MASK)[0]
    vanilla = lambda x: -jnp.sum(jnp.where(MASK, advantages * x, 0.0)) / float(MASK.sum())
    chex.assert_trees_all_close(jax.grad(loss)(logprobs), jax.grad(vanilla)(logprobs), rtol=1e-6)


def test_a_clipped_token_has_no_gradient():
    # Ratio e, favoured further by a positive advantage, and 1/e, disfavoured further by a negative one.
    logprobs, advantages = jnp.array([[1.0, -1.0]]), jnp.array([[1.0, -1.0]])
    mask = jnp.ones((1, 2), jnp.bool_)
    loss = lambda x: ppo_policy_loss(x, jnp.zeros((1, 2)), advantages, mask, cliprange=0.2)[0]
    chex.assert_trees_all_equal(jax.grad(loss)(logprobs), jnp.zeros((1, 2)))


def test_the_upper_clip_can_be_higher():
    # Ratio 1.25 and a positive advantage: clipped at 1.2, free at 1.28.
    x, one, mask = jnp.log(jnp.full((1, 1), 1.25)), jnp.ones((1, 1)), jnp.ones((1, 1), jnp.bool_)
    for high, expected, clip_frac in ((None, -1.2, 1.0), (0.28, -1.25, 0.0)):
        loss, metrics = ppo_policy_loss(x, jnp.zeros((1, 1)), one, mask, cliprange=0.2, cliprange_high=high)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        assert metrics["clip_frac"] == clip_frac


def test_the_dual_clip_limits_the_loss_of_bad_tokens_only():
    # Ratio 10: a bad token's loss of 10 is held at 3 and its gradient ends; a good one is clipped as ever.
    x, mask = jnp.log(jnp.full((1, 1), 10.0)), jnp.ones((1, 1), jnp.bool_)
    loss = lambda x, advantage, dual_clip: ppo_policy_loss(
        x, jnp.zeros((1, 1)), jnp.full((1, 1), advantage), mask, cliprange=0.2, dual_clip=dual_clip
    )
    np.testing.assert_allclose(loss(x, -1.0, 0.0)[0], 10.0, rtol=1e-5)
    np.testing.assert_allclose(loss(x, -1.0, 3.0)[0], 3.0, rtol=1e-6)
    assert loss(x, -1.0, 3.0)[1]["dual_clip_frac"] == 1.0
    assert jax.grad(loss, has_aux=True)(x, -1.0, 3.0)[0] == 0.0
    np.testing.assert_allclose(loss(x, 1.0, 3.0)[0], -1.2, rtol=1e-6)


@pytest.mark.parametrize(("loss", "inputs"), LOSSES[:2], ids=LOSS_IDS[:2])
def test_only_the_trained_quantity_receives_gradients(loss, inputs):
    gradients = jax.grad(lambda arrays: loss(*arrays, MASK)[0])(list(map(jnp.asarray, rollout(8, inputs))))
    assert jnp.any(gradients[0] != 0)
    chex.assert_trees_all_equal(gradients[1:], [jnp.zeros(MASK.shape)] * 2)


def test_losses_of_an_empty_batch_are_zero():
    nothing = jnp.zeros_like(MASK)
    for loss, inputs in LOSSES:
        assert loss(*rollout(9, inputs), nothing)[0] == 0.0


def test_mistakes_are_named(unchecked):
    x, mask = jnp.zeros((2, 3)), jnp.ones((2, 3), jnp.bool_)
    with pytest.raises(ValueError, match="dual_clip=0.5"):
        ppo_policy_loss(x, x, x, mask, cliprange=0.2, dual_clip=0.5)
    with pytest.raises(TypeError, match="advantages is int32"):
        ppo_policy_loss(x, x, jnp.zeros((2, 3), jnp.int32), mask, cliprange=0.2)
    with pytest.raises(AssertionError):
        ppo_value_loss(x, x, jnp.zeros((2, 1)), mask, cliprange_value=0.2)
