"""Sizes of the mesh, and what does not divide over it."""

import re

import jax
import pytest
from jax.sharding import AxisType

from icegrt_jax.errors import UserError
from icegrt_jax.sharding.mesh import check_batch, make_mesh, mesh_shape, platform


@pytest.mark.parametrize(
    "sizes, shape",
    [((-1, 1, 1), (8, 1, 1)), ((2, -1, 1), (2, 4, 1)), ((2, 2, -1), (2, 2, 2)), ((1, 1, 8), (1, 1, 8))],
)
def test_one_size_may_be_what_the_others_leave(sizes, shape):
    assert mesh_shape(*sizes, devices=8) == shape


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((-1, -1, 1), "data=-1, fsdp=-1, tensor=1: expected positive sizes, one of them -1 at most"),
        ((0, 1, 8), "data=0, fsdp=1, tensor=8: expected positive sizes"),
        ((-2, 1, 1), "data=-2, fsdp=1, tensor=1: expected positive sizes"),
        ((-1, 3, 1), "3 does not divide 8 devices; use a divisor of 8"),
        ((4, 1, 1), "data=4, fsdp=1, tensor=1 is 4 devices, but there are 8; set one of the sizes to -1"),
        ((16, 1, 1), "is 16 devices, but there are 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        mesh_shape(*sizes, devices=8)


def test_the_mesh_spans_all_devices_with_auto_axes():
    mesh = make_mesh(data=2, fsdp=-1, tensor=2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_a_batch_divides_over_data_and_fsdp_but_not_over_tensor():
    mesh = make_mesh(2, 2, 2)
    check_batch("sft.batch_size", 12, mesh)
    with pytest.raises(UserError, match=r"sft.batch_size=10 does not divide over 4 devices .*; use a multiple of 4"):
        check_batch("sft.batch_size", 10, mesh)


def test_the_platform_is_that_of_the_mesh():
    assert platform() == jax.default_backend()
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        assert jax.jit(lambda: platform() == jax.default_backend())()
