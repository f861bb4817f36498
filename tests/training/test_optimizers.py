"""Schedules at steps worked by hand, and what decay and clipping touch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.training.optimizers import OptimizerConfig, learning_rate, make_optimizer
from tests.training.examples import make_scalar


def rates(steps, **options):
    schedule = learning_rate(OptimizerConfig(**{"lr": 0.8, "total_steps": 12, **options}))
    return [float(schedule(step)) for step in steps]


def test_a_constant_rate_never_changes():
    np.testing.assert_allclose(rates([0, 5, 100]), [0.8, 0.8, 0.8])


def test_warmup_starts_one_step_in_and_reaches_the_peak_at_its_last_update():
    np.testing.assert_allclose(rates(range(6), warmup_steps=4), [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-6)
    np.testing.assert_allclose(rates(range(3), warmup_steps=1), [0.8, 0.8, 0.8], rtol=1e-6)


def test_a_linear_rate_falls_to_its_final_fraction():
    # Eight steps after four of warm-up, from 0.8 down to 0.2.
    got = rates([4, 8, 12, 20], warmup_steps=4, schedule="linear", final_lr_fraction=0.25)
    np.testing.assert_allclose(got, [0.8, 0.5, 0.2, 0.2], rtol=1e-6)


def test_a_cosine_rate_falls_to_its_final_fraction():
    got = rates([0, 3, 6, 12, 20], schedule="cosine", final_lr_fraction=0.25)
    quarter = 0.2 + 0.6 * (1 + math.cos(math.pi / 4)) / 2
    np.testing.assert_allclose(got, [0.8, quarter, 0.5, 0.2, 0.2], rtol=1e-6)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UserError, match="schedule='cosin'; expected one of 'constant', 'linear', 'cosine'"):
        OptimizerConfig(lr=1.0, total_steps=1, schedule="cosin")


def updates(params, grads, **options):
    optimizer = make_optimizer(OptimizerConfig(**{"lr": 0.1, "total_steps": 10, "max_grad_norm": 0.0, **options}))
    return optimizer.update(grads, optimizer.init(params), params)[0]


def test_weight_decay_pulls_at_kernels_and_embeddings_only():
    params = make_scalar(0)
    still = jax.tree.map(jnp.zeros_like, params)
    decayed = updates(params, still, weight_decay=0.5)
    for (path, update), value in zip(jax.tree_util.tree_leaves_with_path(decayed), jax.tree.leaves(params)):
        expected = -0.1 * 0.5 * value if path[-1].key in ("kernel", "embedding") else jnp.zeros_like(value)
        np.testing.assert_allclose(update, expected, atol=1e-7)
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(decayed)}
    assert names == {"kernel", "embedding", "scale", "bias"}


def test_gradients_are_scaled_down_to_the_global_norm_and_never_up():
    params = {"kernel": jnp.zeros(2), "bias": jnp.zeros(1)}
    grads = {"kernel": jnp.array([3.0, 0.0]), "bias": jnp.array([4.0])}  # of norm 5
    # Adam's first step is lr * g / (|g| + eps): a large eps shows the gradient it was given.
    step = lambda limit: updates(params, grads, max_grad_norm=limit, eps=1e6)
    for limit, scale in [(0.0, 1.0), (2.0, 0.4), (50.0, 1.0)]:
        np.testing.assert_allclose(step(limit)["kernel"], [-0.1 * 3.0 * scale / 1e6, 0.0], rtol=1e-4)
        np.testing.assert_allclose(step(limit)["bias"], [-0.1 * 4.0 * scale / 1e6], rtol=1e-4)


def test_a_first_step_of_adam_has_the_size_of_the_learning_rate():
    params = {"kernel": jnp.zeros(3)}
    np.testing.assert_allclose(
        updates(params, {"kernel": jnp.array([1e-3, -5.0, 0.0])})["kernel"], [-0.1, 0.1, 0.0], rtol=1e-4
    )
