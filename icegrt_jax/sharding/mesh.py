"""The one mesh of a run, with axes `data`, `fsdp` and `tensor`."""

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from icegrt_jax.config.options import MeshOptions
from icegrt_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # a batch is split over both
# The same devices while responses are sampled: parts of `fsdp` and of `tensor`, see `sampling/layout.py`.
ROLLOUT_AXES = ("data", "fsdp_copies", "fsdp_rows", "fsdp_heads", "tensor_rows", "tensor_heads")


def mesh_shape(data: int, fsdp: int, tensor: int, devices: int) -> tuple[int, int, int]:
    """The three sizes with a -1 filled in, or an error that says what would fit."""
    sizes = [data, fsdp, tensor]
    text = f"mesh data={data}, fsdp={fsdp}, tensor={tensor}"
    if sizes.count(-1) > 1 or any(size != -1 and size < 1 for size in sizes):
        raise UserError(f"{text}: expected positive sizes, one of them -1 at most (what is left over).")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if devices % known:
            raise UserError(f"{text}: {known} does not divide {devices} devices; use a divisor of {devices}.")
        sizes[sizes.index(-1)] = devices // known
    elif known != devices:
        raise UserError(f"{text} is {known} devices, but there are {devices}; set one of the sizes to -1.")
    return sizes[0], sizes[1], sizes[2]


def make_mesh(
    data: int = MeshOptions.data,
    fsdp: int = MeshOptions.fsdp,
    tensor: int = MeshOptions.tensor,
    rollout_tensor: int = MeshOptions.rollout_tensor,
    *,
    devices: Sequence | None = None,
) -> Mesh:
    """A mesh over all devices of the run, or those given; -1 takes what the other axes leave.

    The arguments are the keys of `config.mesh`; the last of them, how the weights lie while responses are sampled, is
    only checked here. Over several TPU slices `data` is the axis that goes from slice to slice: the network between
    them is slow, and only gradients are summed over it.
    """
    devices = jax.devices() if devices is None else devices
    mesh = _over(devices, mesh_shape(data, fsdp, tensor, len(devices)))
    check_ways(rollout_tensor, mesh)
    return mesh


def _over(devices: Sequence, shape: tuple[int, int, int]) -> Mesh:
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        try:
            return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
        except NotImplementedError:  # an axis of the mesh takes a part of one of the slice's, as 32 x 2 of 4 x 4 x 4
            grid = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
            return Mesh(grid, AXES, axis_types=types)
    if shape[0] % slices:
        raise UserError(f"mesh data={shape[0]} does not divide over {slices} slices; use a multiple of {slices}.")
    within = (shape[0] // slices, *shape[1:])
    grid = mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices=devices)
    return Mesh(grid, AXES, axis_types=types)


def possible_ways(mesh: Mesh) -> list[int]:
    """The values `mesh.rollout_tensor` can have: the tensor axis times a divisor of the fsdp axis."""
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    return [tensor * part for part in range(1, fsdp + 1) if fsdp % part == 0]


def check_ways(ways: int, mesh: Mesh) -> None:
    """Refuses a split of the weights for sampling that the mesh has not got; 0 leaves the choice to us."""
    if ways and ways not in possible_ways(mesh):
        raise UserError(
            f"mesh.rollout_tensor={ways} with fsdp={mesh.shape['fsdp']} and tensor={mesh.shape['tensor']}; expected "
            f"the tensor axis times a divisor of the fsdp axis, {' or '.join(map(str, possible_ways(mesh)))}, or 0 to "
            "have it chosen."
        )


def check_batch(name: str, size: int, mesh: Mesh) -> None:
    """Refuses a batch that does not divide over the mesh; `name` is its config key."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if size % parts:
        raise UserError(
            f"{name}={size} does not divide over {parts} devices (mesh axes data x fsdp); use a multiple of {parts}."
        )


def platform() -> str:
    """What the program being traced will run on: "tpu", "gpu" or "cpu".

    The devices of the mesh that is set, so that a program can be compiled ahead of time for devices that are not here.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()
