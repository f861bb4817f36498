"""Scoring a rollout, and the epochs of updates that follow, against float64 NumPy and against what they promise."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.training import ppo
from icegrt_jax.training.forward import answer_scores, response_logprobs
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.updates import policy_update
from tests.rl import references
from tests.training.examples import (
    OPTIMIZER,
    POLICY,
    SCALAR,
    B,
    T,
    make_experience,
    make_rollout,
    make_sft_batch,
    make_state,
    response_values,
)

GENTLE = dataclasses.replace(OPTIMIZER, lr=0.01)


@pytest.fixture(scope="module")
def parts(rollout):
    """What `score` reads off the roles, each by a function with tests of its own."""
    found = ingredients(make_state(reference_seed=5), rollout)
    return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


@jax.jit
def ingredients(state, rollout):
    args = (rollout.prompts, rollout.prompt_mask, rollout.responses, rollout.mask)
    tokens = jnp.concatenate([rollout.prompts, rollout.responses], axis=1)
    seen = jnp.concatenate([rollout.prompt_mask, rollout.mask], axis=1)
    reference = state.params["reference"]
    found = {
        "scores": answer_scores(state.params["reward"], SCALAR, tokens, seen),
        "values": response_values(state.params["value"], SCALAR, *args),
        "ref_logprobs": response_logprobs(reference, POLICY, *args, temperature=1.0)[0],
    }
    return found


def expected_score(rollout, parts, config, *, kl_coef=0.3, ref_mean=0.4, ref_std=1.7):
    """`score` once more in float64, from the words of its configuration."""
    mask, scores = np.asarray(rollout.mask), parts["scores"]
    logprobs = np.asarray(rollout.logprobs, np.float64)
    scaled = {
        "none": scores,
        "reference": (scores - ref_mean) / ref_std,
        "running_std": scores / scores.std(),
        "running_mean_std": (scores - scores.mean()) / scores.std(),
    }[config.score_scale]
    if config.score_clip:
        scaled = np.clip(scaled, -config.score_clip, config.score_clip)
    lengths = mask.sum(1)
    final = scaled - config.eos_penalty * ~np.asarray(rollout.finished)
    final = final - config.length_penalty * np.maximum(lengths - config.length_target, 0)
    kl = np.where(mask, logprobs - parts["ref_logprobs"], 0.0)
    rewards = references.token_rewards(final, kl, mask, kl_coef if config.kl_in == "reward" else 0.0)
    unit = 1.0  # the reward by which the advantages are divided
    every = np.ones(len(scores), bool)
    spreads = {"score_before": (scores, every), "score_after": (scaled, every), "reward_before": (rewards, mask)}
    if config.whiten_rewards:
        unit *= np.sqrt(references.var(rewards, mask))
        rewards = references.whiten(rewards, mask, shift_mean=False)
        spreads["reward_after"] = rewards, mask
    advantages, returns = references.gae(rewards, parts["values"], mask, config.gamma, config.lam)
    if config.advantages == "whiten":
        unit *= np.sqrt(references.var(advantages, mask))
    normalized = {
        "whiten": lambda: references.whiten(advantages, mask),
        "mean": lambda: np.where(mask, advantages - references.mean(advantages, mask), 0.0),
        "none": lambda: advantages,
    }[config.advantages]()
    if config.advantage_clip:
        normalized = np.clip(normalized, -config.advantage_clip, config.advantage_clip)
    spreads |= {"advantage_before": (advantages, mask), "advantage_after": (normalized, mask)}
    told = {f"{name}_{what}": x for name, of in spreads.items() for what, x in references.spread(*of).items()}
    if config.score_clip:
        told["score_clipped"] = np.mean(np.abs(scaled) >= config.score_clip)
    if config.advantage_clip:
        told["advantage_clipped"] = np.mean(np.abs(normalized[mask]) >= config.advantage_clip)
    sequence_kl = np.where(mask, logprobs - parts["ref_logprobs"], 0.0).sum(1).mean()
    return {
        "advantages": normalized, "returns": returns, "values": parts["values"],
        "ref_logprobs": parts["ref_logprobs"], "old_logprobs": logprobs,
        **({"kl_coef": np.full(B, kl_coef / unit)} if config.kl_in == "loss" else {}),
    }, {
        "score_raw": scores.mean(), "score_scaled": scaled.mean(), "rewards": rewards.sum(1).mean(),
        "kl": sequence_kl, "kl_coef": kl_coef, "length": lengths.mean(), "eos_rate": np.mean(rollout.finished),
        "advantage_mean": references.mean(advantages, mask), "advantage_std": references.var(advantages, mask) ** 0.5,
        "explained_variance": references.explained_variance(parts["values"], returns, mask),
        "score_histogram": scores, "scaled_histogram": scaled,
        **{f"scaling/{name}": number for name, number in told.items()},
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        dict(score_scale="reference", score_clip=1.0, eos_penalty=0.7),
        dict(kl_kind="exact", kl_in="loss", score_scale="running_mean_std", whiten_rewards=True,
             length_penalty=0.3, length_target=3, advantages="mean", advantage_clip=0.5, gamma=0.97, lam=0.8),
        dict(kl_kind="k2", kl_in="loss", whiten_rewards=True),
        dict(kl_kind="k3", kl_in="loss", score_scale="running_std", advantages="none", lam=1.0),
    ],
    ids=["reference", "exact", "k2", "k3"],
)  # fmt: skip
def test_a_score_equals_its_ingredients_put_together_in_float64(options, rollout, parts):
    state = make_state(reference_seed=5, **options)
    scored, experience, metrics = jax.jit(score)(state, rollout)
    arrays, numbers = expected_score(rollout, parts, state.ppo)
    for name, array in arrays.items():
        np.testing.assert_allclose(getattr(experience, name), array, atol=2e-5, rtol=2e-5, err_msg=name)
        assert getattr(experience, name).dtype == jnp.float32, name
    assert set(metrics) == set(numbers)
    for name, number in numbers.items():
        np.testing.assert_allclose(metrics[name], number, atol=2e-5, rtol=2e-5, err_msg=name)
        assert metrics[name].dtype == jnp.float32, name
    # The controller moves after the rewards are made: towards the target of 2 nats over 100 responses.
    coefficient = references.adaptive_kl(0.3, numbers["kl"], B, target=2.0, horizon=100.0)
    np.testing.assert_allclose(scored.kl.kl_coef, coefficient, rtol=1e-5)
    assert abs(coefficient - 0.3) > 1e-3
    np.testing.assert_allclose(scored.score_stats.mean, parts["scores"].mean(), atol=1e-5)
    np.testing.assert_allclose(scored.score_stats.std, parts["scores"].std(), atol=1e-5)
    assert scored.score_stats.count == B
    chex.assert_trees_all_equal(scored.params, state.params)
    for name in ("prompts", "prompt_mask", "responses", "mask"):
        np.testing.assert_array_equal(getattr(experience, name), getattr(rollout, name))


def test_scores_made_elsewhere_take_the_place_of_the_reward_models(rollout, parts):
    state = make_state(reference_seed=5, score_scale="reference")
    expected = jax.jit(score)(state, rollout)
    unread = state.replace(params={**state.params, "reward": {"embed": jnp.full(3, jnp.nan)}})
    scored = jax.jit(score)(unread, rollout, jnp.asarray(parts["scores"], jnp.float32))
    chex.assert_trees_all_close(scored[1:], expected[1:], atol=1e-5)
    chex.assert_trees_all_close(scored[0].score_stats, expected[0].score_stats, atol=1e-5)


def test_roles_read_before_the_scores_are_known_give_the_same_experience(rollout, parts):
    state = make_state(reference_seed=5, recompute_logprobs=True)
    expected = jax.jit(score)(state, rollout)
    read = jax.jit(ppo.read_roles)(state, rollout)
    scored = jax.jit(score)(state, rollout, jnp.asarray(parts["scores"], jnp.float32), read)
    chex.assert_trees_all_close(scored[1:], expected[1:], atol=1e-5)


def test_old_logprobs_can_be_the_trainers_own(rollout):
    """Equal to the sampler's where it is right, and read from the policy where it is not."""
    state = make_state(reference_seed=5)
    recomputing = make_state(reference_seed=5, recompute_logprobs=True)
    _, expected, metrics = jax.jit(score)(state, rollout)
    assert "sampler_logprob_diff" not in metrics
    run = jax.jit(score)
    _, experience, metrics = run(recomputing, rollout)
    chex.assert_trees_all_close(experience, expected, atol=1e-4)
    np.testing.assert_allclose(metrics["sampler_logprob_diff"], 0.0, atol=1e-5)
    wrong = rollout.replace(logprobs=jnp.where(rollout.mask, rollout.logprobs - 0.5, 0.0))
    _, corrected, metrics = run(recomputing, wrong)
    chex.assert_trees_all_equal(corrected, experience)
    np.testing.assert_allclose(metrics["sampler_logprob_diff"], 0.5, atol=1e-4)


def test_the_score_lands_on_the_last_token_and_its_fraction_survives(rollout):
    """With gamma and lam 1 and a critic of zeros the returns are the sums of rewards: the score at every token."""
    state = make_state(kl_coef=1e-9, lam=1.0, advantages="none")
    state = state.replace(params={**state.params, "value": jax.tree.map(jnp.zeros_like, state.params["value"])})
    _, experience, metrics = jax.jit(score)(state, rollout)
    expected = jnp.where(rollout.mask, metrics["score_histogram"][:, None], 0.0)
    np.testing.assert_allclose(experience.returns, expected, atol=1e-6)
    assert jnp.abs(expected - jnp.round(expected)).max() > 0.1


def test_reference_logprobs_are_taken_at_the_sampling_temperature():
    state = make_state(temperature=0.6)
    rollout = make_rollout(state, temperature=0.6)
    _, experience, metrics = jax.jit(score)(state, rollout)
    np.testing.assert_allclose(experience.ref_logprobs, rollout.logprobs, atol=1e-4)
    np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"advantages": "none"}, {"whiten_rewards": True}], ids=str)
def test_the_loss_takes_the_coefficient_that_is_logged_in_the_unit_of_the_advantages(options, rollout):
    state = make_state(reference_seed=5, kl_in="loss", kl_kind="k2", **options)
    state, experience, scored = jax.jit(score)(state, rollout)
    assert abs(state.kl.kl_coef - scored["kl_coef"]) > 1e-3, "the controller has moved on"
    _, metrics = jax.jit(policy_update)(state, experience)
    surrogate = -references.mean(experience.advantages, experience.mask)  # the ratio is 1
    coefficient = float((metrics["loss"] - surrogate) / metrics["kl_loss"])
    unit = {"": float(scored["advantage_std"]), "advantages": 1.0}.get("".join(options))
    if unit:
        np.testing.assert_allclose(coefficient, scored["kl_coef"] / unit, rtol=1e-3)
    np.testing.assert_allclose(coefficient, experience.kl_coef, rtol=1e-3)


def test_the_first_minibatch_of_a_run_has_ratio_1_and_the_epochs_all_run(rollout):
    state = make_state(optimizer=GENTLE, num_ppo_epochs=3, num_minibatches=2)
    state, experience, _ = jax.jit(score)(state, rollout)
    updated, metrics = jax.jit(ppo_update)(state, experience)
    assert metrics["updates"] == 6 and updated.step == state.step + 1
    for role in ("policy", "value"):
        assert updated.opt_state[role][1][0].count == 6
    np.testing.assert_allclose(metrics["first_ratio_error"], 0.0, atol=1e-5)
    np.testing.assert_allclose(metrics["first_logprob_diff"], 0.0, atol=1e-4)
    assert metrics["ratio_max_dev"] > 1e-3, "later minibatches are met by a policy that has moved"
    assert metrics["approx_kl"] > 1e-5
    assert all(jnp.all(jnp.isfinite(x)) for x in metrics.values())


def test_a_skipped_update_has_its_place_in_the_schedule():
    """Three iterations of six updates, one of them the critic's alone, each ended by its KL."""
    schedule = dataclasses.replace(OPTIMIZER, schedule="linear", total_steps=18)
    options = dict(num_ppo_epochs=3, num_minibatches=2, kl_early_stop=1e-6, value_warmup=1)
    state, update, made = make_state(optimizer=schedule, **options), jax.jit(ppo_update), 0
    for iteration in range(1, 4):
        state, metrics = update(state, make_experience())
        made += int(metrics["updates"])
        adam, decay, rate = state.opt_state["value"][1]
        assert rate.count == 6 * iteration and adam.count == made
        adam, _, rate = state.opt_state["policy"][1]
        assert rate.count == 6 * (iteration - 1), "the actor's schedule begins after the warm-up of the critic"
    assert 3 <= made < 9, "each iteration was ended early"


# What follows is about which minibatches an update sees; a stand-in for the two steps compiles in no time.


@pytest.fixture
def seen(monkeypatch):
    """The minibatches met, in order: (row numbers, replay row numbers). `approx_kl` grows by 1 an update, from 0."""
    seen = []

    def policy_update(state, batch):
        rows, replayed = batch.returns[:, 0], jnp.zeros(0) if batch.ptx is None else batch.ptx["tokens"][:, 0]
        jax.debug.callback(
            lambda *xs: seen.append(tuple(np.asarray(x).astype(int).tolist() for x in xs)), rows, replayed
        )
        count = state.params["policy"]
        metrics = {
            "loss": 0.0,
            "ratio": 1.0,
            "approx_kl": count,
            "logprob_diff": 0.0,
            "ratio_error": 0.0,
            "skipped": 0.0,
        }
        metrics = {name: jnp.asarray(x, jnp.float32) for name, x in metrics.items()}
        return state.replace(params={**state.params, "policy": count + 1.0}), metrics

    def value_update(state, batch):
        params = {**state.params, "value": state.params["value"] + 1.0}
        metrics = {"loss": 2.0, "grad_norm": 3.0, "value_error": 4.0, "skipped": 0.0}
        return state.replace(params=params), {name: jnp.float32(x) for name, x in metrics.items()}

    monkeypatch.setattr(ppo, "policy_update", policy_update)
    monkeypatch.setattr(ppo, "value_update", value_update)
    return seen


def iterate(seen, *, step=0, ptx=False, **options):
    """(state, metrics, minibatches) after one iteration; the state's parameters count updates."""
    state = make_state(**options)
    state = state.replace(step=jnp.int32(step), params={"policy": jnp.float32(0), "value": jnp.float32(0)})
    replay = {name: jnp.arange(8)[:, None] * jnp.ones((8, 3), jnp.int32) for name in ("tokens", "loss_mask")}
    experience = make_experience().replace(
        returns=jnp.arange(B, dtype=jnp.float32)[:, None] * jnp.ones((B, T)), ptx=replay if ptx else None
    )
    seen.clear()
    state, metrics = jax.jit(lambda *args: ppo_update(*args))(state, experience)
    jax.block_until_ready(state)
    jax.effects_barrier()
    return state, metrics, list(seen)


def test_every_epoch_visits_every_row_once_in_an_order_of_its_own(seen):
    state, metrics, minibatches = iterate(seen, num_ppo_epochs=3, num_minibatches=4, ptx=True)
    assert len(minibatches) == 12 and metrics["updates"] == 12
    assert (state.params["policy"], state.params["value"]) == (12, 12)
    epochs = [[row for rows, _ in minibatches[e : e + 4] for row in rows] for e in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(B)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, range(B)]}) == 4
    replayed = [rows for _, rows in minibatches]
    assert replayed == [[0, 1], [2, 3], [4, 5], [6, 7]] * 3, "each minibatch has its own part of the replay batch"
    assert metrics["value_loss"] == 2 and metrics["value_grad_norm"] == 3 and "policy_loss" in metrics


def test_the_order_depends_on_key_and_iteration_and_on_nothing_else(seen):
    first, again, later = (iterate(seen, num_minibatches=4, step=step)[2] for step in (0, 0, 1))
    assert first == again != later


@pytest.mark.parametrize("limit, updates", [(0.0, 6), (0.5, 2), (1.5, 3), (100.0, 6)])
def test_updates_end_after_the_minibatch_whose_kl_passes_the_limit(limit, updates, seen):
    state, metrics, minibatches = iterate(seen, num_ppo_epochs=3, num_minibatches=2, kl_early_stop=limit)
    assert len(minibatches) == metrics["updates"] == updates
    assert (state.params["policy"], state.params["value"]) == (updates, updates)
    # Means are over the updates made: approx_kl was 0, 1, ...
    np.testing.assert_allclose(metrics["approx_kl"], (updates - 1) / 2)
    assert metrics["value_loss"] == 2


@pytest.mark.parametrize("step, policy_updates", [(0, 0), (1, 0), (2, 4)])
def test_only_the_critic_learns_during_its_warm_up(step, policy_updates, seen):
    state, metrics, _ = iterate(seen, step=step, num_ppo_epochs=2, num_minibatches=2, value_warmup=2)
    assert (state.params["policy"], state.params["value"]) == (policy_updates, 4)
    assert metrics["updates"] == 4


@pytest.mark.parametrize("over", [False, True])
def test_the_actor_learns_once_the_critics_error_is_flat_whatever_the_step(over, seen):
    state = make_state(value_warmup=9, value_flat=1).replace(step=jnp.int32(4))
    kept = {"errors": jnp.array([4.5, 4.0]), "length": jnp.int32(4 - over), "over": jnp.array(over)}
    state = state.replace(warmup=kept, params={"policy": jnp.float32(0), "value": jnp.float32(0)})
    state, metrics = jax.jit(lambda *args: ppo_update(*args))(state, make_experience())
    assert (state.params["policy"], state.params["value"]) == (over, 1)
    # The stand-in's error is 4, as in the iteration before.
    assert (metrics["value_warmup"], metrics["value_warmup_over"]) == (3 if over else 5, 1)


def test_warm_up_leaves_policy_and_its_optimizer_bit_for_bit():
    state = make_state(value_warmup=1)
    updated, _ = jax.jit(ppo_update)(state, make_experience())
    chex.assert_trees_all_equal(updated.params["policy"], state.params["policy"])
    chex.assert_trees_all_equal(updated.opt_state["policy"], state.opt_state["policy"])
    changed = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), updated.params["value"], state.params["value"])
    assert max(jax.tree.leaves(changed)) > 0.01


def test_replay_pulls_the_policy_towards_the_replayed_data_and_advantages_towards_theirs():
    state = make_state(optimizer=GENTLE, ptx_coef=1.0, num_minibatches=2)
    batch = make_experience()
    good = (jnp.arange(B) % 2 == 0)[:, None]
    args = (POLICY, batch.prompts, batch.prompt_mask, batch.responses, batch.mask)
    logprobs = jax.jit(lambda params: response_logprobs(params, *args, temperature=1.0)[0])
    update = jax.jit(ppo_update)
    losses, gaps = [], []
    for _ in range(5):
        current = logprobs(state.params["policy"])
        gaps.append(float((jnp.where(good, 1, -1) * current).sum()))
        advantages = jnp.where(batch.mask, jnp.where(good, 1.0, -1.0), 0.0)
        experience = batch.replace(old_logprobs=current, advantages=advantages, ptx=make_sft_batch())
        state, metrics = update(state, experience)
        losses.append(float(metrics["ptx_loss"]))
    assert losses[-1] < losses[0] - 0.05 and gaps[-1] > gaps[0] + 1.0
