"""Several reward models in one program: what they say, how they learn, and the model of their mean weights."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.models.heads import new_head
from icegrt_jax.models.lora import LoRAConfig, init_adapter, merged
from icegrt_jax.models.members import Members, mean_weights, stacked
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.training.members import each_member, together
from icegrt_jax.training.ppo import read_scores, score
from icegrt_jax.training.rewards import have_signal
from icegrt_jax.training.state import create_state
from icegrt_jax.training.updates import reward_update
from tests.rl import references
from tests.training.examples import OPTIMIZER, POLICY, SCALAR, B, make_policy, make_scalar, make_state
from tests.training.parts import LORA, noisy, shared_state

GROUP = 4
MEAN, STD = np.float32([0.1, -0.2, 0.3]), np.float32([0.5, 1.5, 1.0])
read = jax.jit(read_scores)


def with_members(state, trees, **ppo):
    """The state with several reward models on known scales."""
    scale = {"mean": jnp.asarray(MEAN), "std": jnp.asarray(STD)}
    params = {**state.params, "reward": Members(stacked(trees))}
    return state.replace(params=params, members=scale, ppo=dataclasses.replace(state.ppo, **ppo))


@pytest.fixture(scope="module")
def single():
    """States with one reward model each."""
    state = make_state(group_size=GROUP)
    return [state.replace(params={**state.params, "reward": make_scalar(seed)}) for seed in (2, 5, 8)]


@pytest.fixture(scope="module")
def said(single, rollout):
    """f32[B, M], what each of them says."""
    return np.stack([read(state, rollout) for state in single], axis=1)


def test_one_program_reads_what_the_models_say_one_by_one(single, said, rollout):
    trees = [state.params["reward"] for state in single]
    several = with_members(single[0], trees)
    got = read(several, rollout)
    assert got.shape == (B, 3) and np.ptp(said, axis=1).min() > 1e-3
    np.testing.assert_allclose(got, said, atol=1e-5)
    blocks = with_members(single[0], trees, score_batch=B // 2)
    np.testing.assert_allclose(read(blocks, rollout), said, atol=1e-5)
    text = jax.jit(read_scores).lower(several, rollout).as_text()
    alone = jax.jit(read_scores).lower(single[0], rollout).as_text()
    assert text.count("stablehlo.dot_general") == alone.count("stablehlo.dot_general"), "each layer stands there once"


def test_adapters_on_one_base_are_read_with_the_base_held_once(rollout):
    states = [shared_state()]
    states += [states[0].replace(params={**states[0].params, "reward": noisy(states[0].params["reward"])})]
    expected = np.stack([read(state, rollout) for state in states], axis=1)
    several = states[0].replace(
        params={**states[0].params, "reward": Members(stacked([state.params["reward"] for state in states]))}
    )
    assert several.full("reward").base is not None
    np.testing.assert_allclose(read(several, rollout), expected, atol=1e-5)


@pytest.mark.parametrize("rule, coef", [("worst", 0.1), ("uncertainty", 0.8)])
def test_ppo_learns_from_what_they_say_together(single, said, rollout, rule, coef):
    trees = [state.params["reward"] for state in single]
    state = with_members(single[0], trees, score_ensemble=rule, score_ensemble_coef=coef)
    _, _, metrics = jax.jit(score)(state, rollout)
    verdicts, spreads = references.ensemble_scores(said, MEAN, STD, rule, coef)
    np.testing.assert_allclose(metrics["scaled_histogram"], verdicts, atol=1e-4)
    np.testing.assert_allclose(metrics["score_histogram"], verdicts, atol=1e-4)
    np.testing.assert_allclose(metrics["ensemble_std"], spreads.mean(), rtol=1e-4)
    _, _, alone = jax.jit(score)(single[0], rollout)
    assert set(metrics) - set(alone) == {"ensemble_std"}


def test_a_reference_answer_s_score_is_taken_off_what_each_says(single, said, rollout):
    """The worst member is that that likes the answer least in comparison, not the one that the prompt tries most."""
    baseline = np.random.default_rng(0).normal(0, 1, (B // GROUP, 3)).astype(np.float32)
    options = dict(score_ensemble="worst", score_baseline="reference")
    state = with_members(single[0], [one.params["reward"] for one in single], **options)
    _, _, metrics = jax.jit(score)(state, rollout, jnp.asarray(said), baseline=jnp.asarray(baseline))
    centred = (said - np.repeat(baseline, GROUP, axis=0)) / STD
    np.testing.assert_allclose(metrics["scaled_histogram"], centred.min(axis=1), atol=1e-4)
    np.testing.assert_allclose(metrics["score_raw"], ((said - MEAN) / STD).min(axis=1).mean(), atol=1e-4)
    same = np.ones((B, 3), np.float32) * np.float32([1.0, 2.0, 3.0])
    signal = jax.jit(have_signal)(state, rollout.mask, jnp.ones(B, bool), jnp.asarray(same), {}, jnp.asarray(baseline))
    assert not signal.any()


def ranked(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    ranks, valid = np.array([[1, 2, 3], [2, 1, 1]] * 4), np.ones((8, 3), bool)
    tokens, mask = rng.integers(4, 24, (8, 3, 6)), np.arange(6) < rng.integers(2, 7, (8, 3, 1))
    rows = {"tokens": tokens, "mask": mask, "ranks": ranks.astype(np.float32), "valid": valid}
    return jax.tree.map(jnp.asarray, rows)


def reward_state(seed: int):
    params = {"reward": make_scalar(seed)}
    return create_state(jax.random.key(11), params, {"reward": SCALAR}, {"reward": OPTIMIZER})


def test_members_learn_side_by_side_as_each_would_alone():
    states, batches = [reward_state(seed) for seed in (2, 5)], [ranked(0), ranked(1)]
    update = jax.jit(reward_update)
    expected, metrics = zip(*(update(*one) for one in zip(states, batches, strict=True)), strict=True)
    by_turns = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:]), *batches)
    state, got = jax.jit(each_member(reward_update))(together(states), by_turns)
    for number, one in enumerate(expected):
        chex.assert_trees_all_close(state.params["reward"].member(number), one.params["reward"], atol=1e-5)
        moments = Members(state.opt_state["reward"]).member(number)
        chex.assert_trees_all_close(moments, one.opt_state["reward"], atol=1e-5)
    assert state.step == 1
    np.testing.assert_allclose(got["loss"], np.mean([one["loss"] for one in metrics]), rtol=1e-5)
    spread = np.ptp([one["accuracy"] for one in metrics])
    np.testing.assert_allclose(got["accuracy_spread"], spread, atol=1e-6)


def test_the_mean_of_weights_is_a_mean_of_every_leaf():
    trees = [make_scalar(seed) for seed in (2, 5, 8)]
    mean, lora = mean_weights(Members(stacked(trees)))
    assert lora is None
    expected = jax.tree.map(lambda *x: np.mean(np.stack(x, dtype=np.float64), axis=0), *trees)
    chex.assert_trees_all_close(mean, expected, atol=1e-6)


@pytest.mark.parametrize("rslora", [False, True])
def test_the_mean_of_adapters_is_the_adapter_of_the_mean_weights(rslora):
    """Not that of the factors: their product would be another model's."""
    lora, whole = dataclasses.replace(LORA, rslora=rslora), make_policy(0)
    rng = np.random.default_rng(0)
    trees = []
    for seed in range(3):
        own = init_adapter(jax.random.key(seed), whole, lora, head=new_head(jax.random.key(seed), POLICY))
        trees.append(jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), own))
    members = Members(stacked(trees), stored_as(whole, "float32"), lora)
    mean, wide = mean_weights(members)
    assert wide == LoRAConfig(rank=3 * lora.rank, alpha=wide.alpha, targets=lora.targets, rslora=rslora)
    expected = jax.tree.map(lambda *x: np.mean(np.stack(x), axis=0), *[merged(whole, own, lora) for own in trees])
    chex.assert_trees_all_close(merged(whole, mean, wide), expected, atol=1e-5)
    chex.assert_trees_all_close(members.whole(1)["head"], trees[1]["head"])


def test_members_are_stored_in_the_format_of_frozen_trees_and_adapters_are_not():
    members = Members(stacked([make_scalar(2), make_scalar(5)]))
    stored = members.stored_as("int8")
    assert stored.own["layers"]["mlp"]["up"]["kernel"].dtype == jnp.int8
    chex.assert_trees_all_equal(stored.member(1), stored_as(make_scalar(5), "int8"))
    adapters = Members(stacked([{"a": jnp.ones(3)}] * 2), {"base": jnp.ones(2)}, LORA)
    assert adapters.stored_as("int8") is adapters
