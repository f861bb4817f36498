"""The annotations of the maths: complete, checked at every call of the tests, and free outside of them."""

import inspect
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import pytest

from icegrt_jax import rl
from icegrt_jax.rl.checks import Given

from . import shapes
from .examples import MASK, rollout

FUNCTIONS = {name: fn for name in rl.__all__ if inspect.isfunction(fn := getattr(rl, name))}
checked = pytest.mark.skipif(shapes.jaxtyping is None, reason="jaxtyping and beartype, of the extra test, are not here")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_array_of_a_public_function_has_its_shape_in_the_annotation(name):
    signature = inspect.signature(FUNCTIONS[name])
    annotations = [*(p.annotation for p in signature.parameters.values()), signature.return_annotation]
    assert inspect.Signature.empty not in annotations
    for annotation in map(str, annotations):
        bare = re.sub(r"\w+\[(Given|jax\.Array), (['\"]).*?\2\]", "", annotation)
        assert "Given" not in bare and "Array" not in bare, annotation


@checked
def test_arguments_of_other_shapes_and_dtypes_are_refused():
    rewards, values = rollout(0, 2)
    rl.gae(rewards, values, MASK)
    for wrong in ((rewards, values[:, :-1], MASK), (rewards, values, MASK.astype(float)), (rewards[0], values, MASK)):
        with pytest.raises(shapes.jaxtyping.TypeCheckError):
            rl.gae(*wrong)
    with pytest.raises(shapes.jaxtyping.TypeCheckError):
        rl.gae(rewards, values, MASK, bootstrap=jnp.zeros(5))  # T, not B


@checked
def test_a_result_of_another_shape_is_refused():
    def mean(x: "Float[Given, 'B T']") -> "Float[jax.Array, ' B']":  # noqa: F722, F821
        return jnp.mean(x, axis=0)

    with pytest.raises(shapes.jaxtyping.TypeCheckError):
        shapes.checked(mean)(jnp.ones((2, 3)))
    assert shapes.checked(mean)(jnp.ones((3, 3))).shape == (3,)


@checked
def test_the_checks_reach_calls_within_the_maths_and_methods():
    with pytest.raises(shapes.jaxtyping.TypeCheckError):
        rl.ScoreStats.create().update(jnp.ones((2, 2)))
    assert all(hasattr(vars(module)["masked_mean"], "__wrapped__") for module in shapes.MODULES
               if "masked_mean" in vars(module))  # fmt: skip


@checked
def test_checked_functions_work_under_jit_grad_vmap_and_pmap():
    logprobs, old, advantages = map(jnp.asarray, rollout(1, 3))
    loss = lambda *args: rl.ppo_policy_loss(*args, MASK, cliprange=0.2)[0]
    plain = inspect.unwrap(rl.ppo_policy_loss)(logprobs, old, advantages, MASK, cliprange=0.2)[0]
    value, gradient = jax.jit(jax.value_and_grad(loss))(logprobs, old, advantages)
    chex.assert_trees_all_close(value, plain, rtol=1e-6)
    chex.assert_tree_all_finite(gradient)
    stacked = [jnp.stack([x] * 2) for x in (logprobs, old, advantages)]
    for mapped in (jax.vmap(loss), jax.pmap(loss, devices=jax.devices()[:2])):
        chex.assert_trees_all_close(mapped(*stacked), jnp.stack([plain] * 2), rtol=1e-6)


def test_outside_of_tests_the_functions_are_plain_and_need_no_jaxtyping():
    code = """
import sys
sys.modules["jaxtyping"] = sys.modules["beartype"] = None
from icegrt_jax import rl
assert not any(hasattr(getattr(rl, name), "__wrapped__") for name in rl.__all__)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
