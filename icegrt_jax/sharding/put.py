"""`jax.device_put` that also works for a mesh over several processes."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding

from icegrt_jax.sharding.rules import spec_of, split_axes, tree_shardings


def put(tree, shardings):
    """The arrays of `tree` where `shardings` says, a tree like it or one for all.

    What a process holds by itself (host arrays, or new ones on its first device) is the same in all of them, and each
    takes its devices' parts from its own: `device_put` would compare every array over the network, or refuse it.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, Sharding):
        return jax.tree.map(lambda x: _put(x, shardings), tree)
    return jax.tree.map(_put, tree, shardings)


def _put(x, sharding: Sharding):
    if sharding.is_fully_addressable or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return jax.device_put(x, sharding)
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def shard_tree(tree, mesh: Mesh):
    """The tree with every array placed as the table says."""
    return put(tree, tree_shardings(tree, mesh))


def shard_batch(batch, mesh: Mesh):
    """Host arrays of the global batch as arrays split over the mesh, as far as the number of rows divides."""
    return put(batch, jax.tree.map(lambda x: _row_sharding(x.shape[0], mesh), batch))


def _row_sharding(rows: int, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, spec_of([split_axes(rows, "rows", mesh)]))
