"""What becomes of a score between the reward model and the reward: centred by a reference answer, bounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.rl import ScoreStats
from icegrt_jax.training.ppo import score
from icegrt_jax.training.rewards import have_signal
from tests.rl import references
from tests.training.examples import B, make_state

GROUP = 4


def scaled(rollout, raw, baseline=None, **options):
    state = make_state(group_size=GROUP, **options)
    given = {} if baseline is None else {"baseline": jnp.asarray(baseline, jnp.float32)}
    state, _, metrics = jax.jit(score)(state, rollout, jnp.asarray(raw, jnp.float32), **given)
    return state, np.asarray(metrics["scaled_histogram"], np.float64), metrics


def test_a_score_less_its_reference_answer_s_is_bounded_by_the_sigmoid(rollout):
    """PAR, arXiv 2502.18770: the reference answer is worth a half, and no answer more than 1."""
    rng = np.random.default_rng(0)
    raw, baseline = rng.normal(2, 3, B), rng.normal(2, 3, B // GROUP)
    centred = raw - np.repeat(baseline, GROUP)
    _, got, metrics = scaled(rollout, raw, baseline, score_baseline="reference")
    np.testing.assert_allclose(got, centred, atol=1e-5)
    np.testing.assert_allclose(metrics["score_raw"], raw.mean(), rtol=1e-5, err_msg="as the reward model says it")
    _, got, _ = scaled(rollout, raw, baseline, score_baseline="reference", score_shape="sigmoid")
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-centred)), atol=1e-5)
    options = dict(score_baseline="reference", score_scale="running_std", score_clip=1.0, score_shape="sigmoid")
    state, got, _ = scaled(rollout, raw, baseline, **options)
    clipped = np.clip(centred / centred.std(), -1.0, 1.0)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-clipped)), atol=1e-5)
    np.testing.assert_allclose(state.score_stats.std, centred.std(), rtol=1e-5)


def test_a_sigmoid_without_references_is_centred_by_the_scale(rollout):
    raw = np.random.default_rng(1).normal(2, 3, B)
    _, got, _ = scaled(rollout, raw, score_scale="reference", score_shape="sigmoid")
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-(raw - 0.4) / 1.7)), atol=1e-5)


@pytest.mark.parametrize("scale", ["reference", "running_mean_std"])
def test_scores_are_scaled_by_the_moments_of_their_prompt_s_source(rollout, scale):
    raw = np.random.default_rng(2).normal(2, 3, B).astype(np.float32)
    sources = np.arange(B) // GROUP % 2
    raw[sources == 1] = 100 * raw[sources == 1] + 50
    state = make_state(group_size=GROUP, score_scale=scale, score_clip=2.0)
    stats = {"ads": ScoreStats.create(1.0, 3.0), "code": ScoreStats.create(60.0, 200.0)}
    state = state.replace(source_stats=stats)
    given = {"scores": jnp.asarray(raw), "sources": jnp.asarray(sources, jnp.int32)}
    after, _, metrics = jax.jit(score)(state, rollout, **given)
    before = {0: ([], 1.0, 3.0), 1: ([], 60.0, 200.0)}
    expected = references.scale_by_source(raw, sources, before, scale, 2.0)
    np.testing.assert_allclose(metrics["scaled_histogram"], expected, atol=1e-3)
    for number, name in enumerate(stats):
        own = raw[sources == number].astype(np.float64)
        np.testing.assert_allclose(metrics[f"source/{name}/mean"], own.mean(), rtol=1e-4)
        np.testing.assert_allclose(metrics[f"source/{name}/std"], own.std(), rtol=1e-4)
        assert int(after.source_stats[name].count) == len(own)
    np.testing.assert_allclose(after.score_stats.mean, raw.mean(dtype=np.float64), rtol=1e-4, err_msg="of all as well")


def test_whether_a_prompt_has_a_signal_goes_by_its_source_s_scale(rollout):
    """Differences that are nothing in the units of one source are all there is in those of another."""
    raw = jnp.tile(jnp.asarray([0.0, 1e-4, 0.0, 1e-4], jnp.float32), B // GROUP)
    state = make_state(group_size=GROUP, score_scale="reference")
    state = state.replace(source_stats={"a": ScoreStats.create(0.0, 1e4), "b": ScoreStats.create(0.0, 1e-4)})
    sources = jnp.arange(B, dtype=jnp.int32) // GROUP % 2
    finished = jnp.ones(B, bool)
    found = jax.jit(have_signal)(state, rollout.mask, finished, raw, {}, None, sources)
    assert found.tolist() == [False, True] * (B // GROUP // 2)


def test_what_each_normalisation_is_given_and_makes_is_told(rollout):
    """Against plain numpy: the reward model's scores, token rewards and advantages, before and after."""
    raw = np.random.default_rng(3).normal(2, 3, B)
    options = dict(score_scale="reference", score_clip=0.7, whiten_rewards=True, advantage_clip=1.2)
    state = make_state(group_size=GROUP, **options)
    _, experience, metrics = jax.jit(score)(state, rollout, jnp.asarray(raw, jnp.float32))
    told = {name.removeprefix("scaling/"): float(x) for name, x in metrics.items() if name.startswith("scaling/")}
    kinds = [f"{name}_{when}" for name in ("score", "reward", "advantage") for when in ("before", "after")]
    names = {f"{kind}_{what}" for kind in kinds for what in ("mean", "std", "min", "max")}
    assert set(told) == names | {"score_clipped", "advantage_clipped"}
    scaled, mask, every = np.asarray(metrics["scaled_histogram"]), np.asarray(rollout.mask), np.ones(B, bool)
    advantages = np.asarray(experience.advantages)
    for kind, x, valid in (
        ("score_before", raw, every), ("score_after", scaled, every), ("advantage_after", advantages, mask)
    ):  # fmt: skip
        for what, expected in references.spread(x, valid).items():
            np.testing.assert_allclose(told[f"{kind}_{what}"], expected, atol=2e-5, rtol=1e-5, err_msg=f"{kind} {what}")
    np.testing.assert_allclose(told["score_clipped"], np.mean(np.abs(scaled) >= 0.7))
    np.testing.assert_allclose(told["advantage_clipped"], np.mean(np.abs(advantages[mask]) >= 1.2), rtol=1e-5)
    np.testing.assert_allclose(told["advantage_before_std"], metrics["advantage_std"], rtol=1e-5)
    np.testing.assert_allclose(told["reward_after_std"], 1.0, rtol=1e-3)
    np.testing.assert_allclose(told["reward_before_mean"], told["reward_after_mean"], atol=1e-5)
    assert told["reward_before_std"] != told["reward_after_std"]
    plain = jax.jit(score)(make_state(group_size=GROUP), rollout, jnp.asarray(raw, jnp.float32))[2]
    assert not any(name.startswith(("scaling/reward_after", "scaling/score_clipped")) for name in plain)
