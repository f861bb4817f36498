"""What becomes of a score between the reward model and the reward: centred by a reference answer, bounded."""

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.training.ppo import score
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
