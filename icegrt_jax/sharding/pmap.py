"""Plain data-parallel replication of the same step functions; the only file that names `jax.pmap`.

pmap is in maintenance mode (JAX changelog 0.8.0). It is for users who replicate small models; the
mesh in `mesh.py` is the production path.
"""

import jax
import jax.numpy as jnp

from icegrt_jax.errors import UserError

AXIS = "replica"


def pmap_step(step):
    """`step(state, batch) -> (state, …)` over all local devices, equal to jit on the whole batch: all of `training`'s.

    The state must name the axis (`state.replace(axis_name=AXIS)`), so that the step sums gradients
    and counts valid tokens over devices.
    """
    return jax.pmap(step, axis_name=AXIS, donate_argnums=0)


def replicate(state):
    """The state with a leading device axis, and with its sums going over that axis."""
    count = jax.local_device_count()
    return jax.tree.map(lambda x: jnp.stack([x] * count), state.replace(axis_name=AXIS))


def unreplicate(state):
    """The first device's copy, no longer bound to the device axis."""
    # Read off the device itself: x[0] is a collective of all devices for every leaf.
    return jax.tree.map(lambda x: x.addressable_shards[0].data[0], state).replace(axis_name=None)


def all_rows(tree, axis_name: str | None):
    """Inside a step: arrays [B / devices, …] of each device joined to [B, …] on every one; without an axis as it is."""
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), tree)


def own_rows(tree, axis_name: str | None):
    """Inside a step: this device's part of arrays [B, …] that all of them hold; without an axis all of it."""
    if axis_name is None:
        return tree
    count, index = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)

    def part(x):
        size = _exact_part(x.shape[0], count)
        return jax.lax.dynamic_slice_in_dim(x, index * size, size)

    return jax.tree.map(part, tree)


def _exact_part(rows: int, count: int) -> int:
    if rows % count:
        raise UserError(f"batch of {rows} does not divide over {count} devices; use a multiple of {count}.")
    return rows // count


def split_batch(batch):
    """Each array [B, …] as [devices, B / devices, …]."""
    count = jax.local_device_count()

    def split(x):
        return x.reshape(count, _exact_part(x.shape[0], count), *x.shape[1:])

    return jax.tree.map(split, batch)
