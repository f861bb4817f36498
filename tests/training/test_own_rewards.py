"""The user's reward values inside the score: against float64 NumPy, with and without a reward model."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.rl import ScoreStats, scale_scores
from icegrt_jax.sharding.pmap import pmap_step, replicate, split_batch, unreplicate
from icegrt_jax.training.checkpoints import Checkpoints, abstract_like
from icegrt_jax.training.ppo import ppo_update, read_roles, score
from icegrt_jax.training.state import Opinions, RewardRule, trained, with_trained
from tests.training.examples import B, make_state

RULES = {
    "exact": RewardRule(weight=0.5),
    "format": RewardRule(weight=2.0, scale="running_std"),
    "judge": RewardRule(weight=-0.7, scale="running_mean_std"),
    "tone": RewardRule(weight=1.5, scale="reference"),
    "looked_at": RewardRule(weight=0.0, scale="running_std"),
}
OPTIONS = {"score_scale": "reference", "score_clip": 1.0, "eos_penalty": 0.7, "length_penalty": 0.1, "length_target": 3}
REFERENCE = {"tone": (0.3, 0.25)}  # mean and deviation


def state_of(rules=RULES, **options):
    state = make_state(reference_seed=5, rewards=tuple(sorted(rules.items())), **{**OPTIONS, **options})
    stats = {name: ScoreStats.create(*REFERENCE.get(name, ())) for name in rules}
    return state.replace(reward_stats=stats)


@pytest.fixture(scope="module")
def scored(rollout):
    return jax.jit(score)(state_of(), rollout, None, None, as_arrays(opinions_of(1)))


def without_key(state):
    """A typed key cannot be compared as the arrays can."""
    return state.replace(key=jax.random.key_data(state.key))


def opinions_of(seed: int, rules=RULES) -> dict[str, list[float | None]]:
    """Numbers with holes; one function has an opinion of nothing in the first batch, another of everything."""
    rng = np.random.default_rng(seed)
    found = {}
    for i, name in enumerate(sorted(rules)):
        known = rng.random(B) < (1.0, 0.6, 0.0 if seed == 0 else 0.5, 0.8, 0.7)[i % 5]
        found[name] = [float(np.float32(x)) if k else None for x, k in zip(rng.normal(1, 2, B), known)]
    return found


def as_arrays(opinions: dict, hole: float = 0.0) -> dict[str, Opinions]:
    return {
        name: Opinions(
            jnp.array([hole if x is None else x for x in values], jnp.float32),
            jnp.array([x is not None for x in values]),
        )
        for name, values in opinions.items()
    }


def by_hand(rule: RewardRule, values: list, before: list, reference: tuple, clip: float) -> list[float]:
    """One function's scaled values in float64: 0 where it has no opinion, moments over opinions only."""
    seen = [x for x in [*before, *values] if x is not None]
    mean = math.fsum(seen) / len(seen) if seen else 0.0
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in seen) / len(seen)) if seen else 0.0
    std = std if std > 1e-6 else 1.0
    if rule.scale == "none":
        return [0.0 if x is None else x for x in values]
    shift, spread = {
        "reference": reference, "running_std": (0.0, std), "running_mean_std": (mean, std)
    }[rule.scale]  # fmt: skip
    return [0.0 if x is None else float(np.clip((x - shift) / spread, -clip, clip)) for x in values]


def expected_sum(model: list[float] | None, batches: list[dict], rules=RULES, clip=1.0) -> np.ndarray:
    total = np.zeros(B) if model is None else np.asarray(model, np.float64)
    for name, rule in rules.items():
        before = [x for batch in batches[:-1] for x in batch[name]]
        total = total + rule.weight * np.array(
            by_hand(rule, batches[-1][name], before, REFERENCE.get(name, (0.0, 1.0)), clip)
        )
    return total


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_score_is_the_weighted_sum_of_scaled_values_in_float64(weight, rollout):
    state, batches = state_of(reward_model=weight), [opinions_of(0), opinions_of(1)]
    if not weight:  # there is none
        params = {role: tree for role, tree in state.params.items() if role != "reward"}
        models = tuple((role, model) for role, model in state.models if role != "reward")
        state = state.replace(params=params, models=models)
    step = jax.jit(score)
    for i, batch in enumerate(batches, start=1):
        state, experience, metrics = step(state, rollout, None, None, as_arrays(batch))
        model = None
        if weight:
            model = weight * np.clip((np.asarray(metrics["score_histogram"], np.float64) - 0.4) / 1.7, -1, 1)
        total = expected_sum(model, batches[:i])
        np.testing.assert_allclose(metrics["scaled_histogram"], total, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(metrics["score_scaled"], total.mean(), atol=1e-5)
        assert ("score_raw" in metrics) == ("score_histogram" in metrics) == bool(weight)
    # The penalties come after the sum, in its units: the token rewards of a response sum to it, less the KL's part.
    lengths = np.asarray(rollout.mask).sum(1)
    final = total - 0.7 * ~np.asarray(rollout.finished) - 0.1 * np.maximum(lengths - 3, 0)
    kl = np.where(rollout.mask, np.asarray(rollout.logprobs) - np.asarray(experience.ref_logprobs), 0.0).sum(1)
    np.testing.assert_allclose(metrics["rewards"], np.mean(final - float(metrics["kl_coef"]) * kl), atol=1e-4)
    for name in RULES:
        seen = [x for batch in batches for x in batch[name] if x is not None]
        stats = state.reward_stats[name]
        assert stats.count == len(seen)
        np.testing.assert_allclose(stats.mean, np.mean(seen), rtol=1e-5)
        np.testing.assert_allclose(stats.std, np.std(seen), rtol=1e-5)


def test_what_stands_in_the_place_of_no_opinion_never_matters(rollout, scored):
    for hole in (1e9, math.nan, math.inf):
        soiled = jax.jit(score)(state_of(), rollout, None, None, as_arrays(opinions_of(1), hole))
        chex.assert_trees_all_equal(soiled[1:], scored[1:])
        chex.assert_trees_all_equal(soiled[0].reward_stats, scored[0].reward_stats)


def test_nobodys_opinion_is_a_score_of_zero_and_leaves_the_moments(rollout):
    stats = ScoreStats.create(0.5, 2.0).update(jnp.array([1.0, 4.0]))
    for method in ("none", "reference", "running_std", "running_mean_std"):
        scaled, after = scale_scores(jnp.full(3, 7.0), stats, method=method, known=jnp.zeros(3, bool))
        assert not scaled.any()
        chex.assert_trees_all_equal(after, stats)
    fresh, known = ScoreStats.create(), jnp.zeros(3, bool)
    assert fresh.update(jnp.ones(3), known).count == 0 and np.isfinite(fresh.update(jnp.ones(3), known).mean)


def test_all_opinions_known_are_the_scores_of_no_holes():
    scores, known = jnp.array([1.0, -3.0, 2.5]), jnp.ones(3, bool)
    for method in ("none", "reference", "running_std", "running_mean_std"):
        plain = scale_scores(scores, ScoreStats.create(0.5, 2.0), method=method, clip=1.5)
        chex.assert_trees_all_close(
            scale_scores(scores, ScoreStats.create(0.5, 2.0), method=method, clip=1.5, known=known), plain, rtol=1e-6
        )


def test_a_scale_of_none_is_not_clipped(rollout):
    state = state_of({"exact": RewardRule()}, reward_model=0.0)
    values = {"exact": [10.0] * B}
    assert jax.jit(score)(state, rollout, None, None, as_arrays(values))[2]["score_scaled"] == 10.0


def test_roles_read_while_the_host_values_the_answers_give_the_same_experience(rollout, scored):
    state, opinions, (after, *expected) = state_of(), as_arrays(opinions_of(1)), scored
    read = jax.jit(read_roles, static_argnames="reward")(state, rollout, reward=True)
    found, *rest = jax.jit(score)(state, rollout, None, read, opinions)
    chex.assert_trees_all_close(rest, expected, atol=1e-5)
    chex.assert_trees_all_close(found.reward_stats, after.reward_stats, atol=1e-5)
    assert "scores" not in jax.eval_shape(read_roles, state, rollout), "it is not read where it is not asked for"


def test_pmap_gives_the_same_score_and_moments(rollout, scored):
    state, opinions, (expected, experience, metrics) = state_of(), as_arrays(opinions_of(1)), scored
    step = pmap_step(lambda state, rollout, opinions: score(state, rollout, None, None, opinions))
    replicated, parts, found = step(replicate(state), split_batch(rollout), split_batch(opinions))
    chex.assert_trees_all_close(unreplicate(replicated).reward_stats, expected.reward_stats, rtol=1e-6)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], found), metrics, atol=2e-5, rtol=2e-5)
    np.testing.assert_allclose(parts.advantages.reshape(B, -1), experience.advantages, atol=2e-5)


def test_a_resumed_run_goes_on_to_the_bit(rollout, tmp_path):
    state, step, update = state_of(), jax.jit(score), jax.jit(ppo_update)

    def iterate(state, seed):
        state, experience, metrics = step(state, rollout, None, None, as_arrays(opinions_of(seed)))
        return update(state, experience)[0], metrics

    half, _ = iterate(state, 1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, trained(half))
        checkpoints.wait()
        restored = with_trained(state, checkpoints.restore(abstract_like(trained(state))))
    chex.assert_trees_all_equal(without_key(restored), without_key(half))
    assert restored.reward_stats["exact"].count > 0
    (state, metrics), (expected, numbers) = iterate(restored, 2), iterate(half, 2)
    chex.assert_trees_all_equal(without_key(state), without_key(expected))
    chex.assert_trees_all_equal(metrics, numbers)


def test_a_checkpoint_from_before_there_were_reward_functions_loads(tmp_path):
    state = make_state()
    old = {field.name: getattr(trained(state), field.name) for field in dataclasses.fields(state)}
    old = {name: tree for name, tree in old.items() if name != "reward_stats" and jax.tree.leaves(tree)}
    assert jax.tree.leaves(old) and "score_stats" in old
    arrays = {name: tree for name, tree in old.items() if isinstance(jax.tree.leaves(tree)[0], jax.Array)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, arrays)
        checkpoints.wait()
        restored = checkpoints.restore(abstract_like(trained(state)))
    chex.assert_trees_all_equal(without_key(restored), without_key(trained(state)))
