"""What is not finite stops a run and is named, wherever its parts are."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from icegrt_jax.errors import UserError
from icegrt_jax.training.finite import TrainingError, check_finite, check_finite_tree


def test_a_value_that_is_not_finite_stops_the_run_and_is_named():
    check_finite(1, {"loss": jnp.float32(0.5), "scores": jnp.arange(3)})
    with pytest.raises(TrainingError, match="Step 12: not finite: loss=nan, scores") as error:
        check_finite(12, {"loss": jnp.float32(jnp.nan), "kl": 0.1, "scores": jnp.array([1.0, jnp.inf])})
    assert isinstance(error.value, UserError)
    assert "kl" not in str(error.value)


def test_what_is_left_is_looked_for_only_where_something_is_wrong():
    check_finite(1, {"loss": 1.0}, left=lambda: pytest.fail("looked for"))
    with pytest.raises(TrainingError, match="loss=inf. Step 3 is kept.$"):
        check_finite(4, {"loss": jnp.inf}, left=lambda: "Step 3 is kept.")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_one_bad_number_in_an_array_split_over_devices_is_found_and_named(value, dtype):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
    w = jax.device_put(jnp.ones((16, 2), dtype), split)
    tree = {"w": w, "b": jax.device_put(jnp.ones(3), whole), "step": jnp.int32(2), "key": jax.random.key(0), "no": None}
    check_finite_tree(7, tree)
    with pytest.raises(TrainingError, match=r"^Step 7: not finite: w; not saved\.$"):
        check_finite_tree(7, tree | {"w": w.at[13, 1].set(value)})


def test_many_arrays_are_counted_not_listed():
    with pytest.raises(TrainingError, match="not finite: 0, 1, 2 and 7 more arrays; not saved"):
        check_finite_tree(1, [jnp.full(2, jnp.nan)] * 10)
