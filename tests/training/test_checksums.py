"""Checksums of arrays: the same wherever they lie, and another for any change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from icegrt_jax.training import checksums

SHAPES = ((), (1,), (7,), (3, 5), (2, 3, 4), (0, 4), (3, 70_000), (2, 1, 3, 70))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_host_and_devices_give_the_same(dtype):
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.integers(0, 2**31, shape), jnp.int32).astype(dtype) for shape in SHAPES]
    on_devices = [int(x) for x in checksums._sums_on_devices(arrays)]
    assert on_devices == [checksums._sum_on_host(np.asarray(array)) for array in arrays]
    assert len(set(on_devices)) >= len(SHAPES) - 2


def test_the_layout_does_not_matter_and_the_shape_does():
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    x = jnp.arange(96.0).reshape(8, 12)
    (whole,) = checksums._sums_on_devices([x])
    for spec in (P("fsdp"), P(None, "tensor"), P("fsdp", "tensor"), P()):
        parts = jax.device_put(x, NamedSharding(mesh, spec))
        assert checksums._sums_on_devices([parts])[0] == whole
        assert checksums.of_tree({"x": parts}) == {"x": int(whole)}
    assert checksums.of_tree({"x": x.reshape(12, 8)}) != {"x": int(whole)}


def test_any_bit_and_any_exchange_of_elements_is_seen():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2**32, (50, 40), dtype=np.uint32)
    before = checksums._sum_on_host(x)
    for _ in range(300):
        place, other, bit = tuple(rng.integers((50, 40))), tuple(rng.integers((50, 40))), rng.integers(32)
        changed = x.copy()
        changed[place] ^= np.uint32(1 << bit)
        assert checksums._sum_on_host(changed) != before
        changed = x.copy()
        changed[place], changed[other] = x[other], x[place]
        assert place == other or checksums._sum_on_host(changed) != before


def test_typed_keys_have_one():
    one, other = (checksums.of_tree({"key": jax.random.key(seed)}) for seed in (0, 1))
    assert one != other
