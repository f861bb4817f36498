"""What of a model does not go with a mesh is said with numbers, and refused where an axis would do nothing."""

import dataclasses

import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.runs.mesh_fit import undivided
from icegrt_jax.sharding.mesh import make_mesh
from tests.training.examples import POLICY

# SmolLM2-135M's heads.
NINE_HEADS = dataclasses.replace(POLICY, num_heads=9, num_kv_heads=3, head_dim=4, d_ff=24, vocab_size=24)


def test_a_model_that_divides_needs_no_word():
    assert undivided("policy", POLICY, make_mesh(2, 2, 2)) == []
    assert undivided("policy", NINE_HEADS, make_mesh(8, 1, 1)) == []


def test_what_does_not_divide_is_named_with_a_size_that_would():
    first, second = undivided("policy", NINE_HEADS, make_mesh(1, 2, 4))
    assert first == (
        "policy: num_heads=9 does not divide over mesh.tensor=4 and is whole on each of those devices; "
        "mesh.tensor=3 would split it"
    )
    assert second.startswith("policy: num_kv_heads=3 does not divide over mesh.tensor=4")


def test_an_axis_that_splits_nothing_is_refused():
    odd = dataclasses.replace(NINE_HEADS, d_ff=27, vocab_size=25)
    with pytest.raises(UserError, match=r"mesh.tensor=2 splits nothing of the reward model \(num_heads=9, num_kv_head"):
        undivided("reward", odd, make_mesh(4, 1, 2))
    with pytest.raises(UserError, match=r"mesh.fsdp=8 splits nothing of the policy model \(d_model=12\); use"):
        undivided("policy", dataclasses.replace(POLICY, d_model=12), make_mesh(1, 8, 1))
