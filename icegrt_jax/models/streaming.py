"""Stored tensors to device arrays, one device's part of one tensor at a time.

Beyond the arrays themselves, the host holds one part and one block of `BLOCK_BYTES` of what is stored; the devices hold
one layer of a stack.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

BLOCK_BYTES = 2**24  # read from disk at a time

Index = tuple[slice, ...]


def read_part(stored: Any, index: Index, dtype: str, *, transposed: bool) -> np.ndarray:
    """The part of a stored tensor that `index` picks, in C order.

    Args:
      stored: a slice handle of `safetensors`, which reads from disk when it is indexed.
      index: one slice per axis of the result, of step 1.
      dtype: of the result.
      transposed: the result is the stored matrix transposed.
    """
    shape = stored.get_shape()
    spans = [range(*s.indices(n)) for s, n in zip(index[::-1] if transposed else index, shape, strict=True)]
    sizes = [len(span) for span in spans]
    out = np.empty(sizes[::-1] if transposed else sizes, jnp.dtype(dtype))
    target = out.T if transposed else out
    rest = tuple(slice(span.start, span.stop) for span in spans[1:])
    row = max(int(np.prod(sizes[1:], dtype=np.int64)) * 8, 1)  # bytes at most: F64 is the widest
    rows = max(BLOCK_BYTES // row, 1)
    for start in range(0, sizes[0], rows):
        stop = min(start + rows, sizes[0])
        target[start:stop] = stored[(slice(spans[0].start + start, spans[0].start + stop), *rest)]
    return out


def place(shape: tuple[int, ...], sharding: Sharding | None, read: Callable[[Index], np.ndarray]) -> jax.Array:
    """The array of `shape` whose parts `read` gives, each read when those before it are on their devices.

    Parts that several devices hold are read once. Without a sharding it is on the first device, and not bound to it.
    """
    if sharding is None:
        return jnp.asarray(read((slice(None),) * len(shape)))
    holders = {}  # slices cannot be hashed before Python 3.12
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        spans = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        holders.setdefault(spans, []).append(device)
    arrays = []
    for spans, devices in holders.items():
        part = read(tuple(slice(*span) for span in spans))
        # Copied and waited for: the part can go before the next one is read.
        arrays += [jax.block_until_ready(jax.device_put(part, device, may_alias=False)) for device in devices]
        del part
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def place_stack(
    shape: tuple[int, ...], dtype: str, sharding: Sharding | None, read: Callable[[int, Index], np.ndarray]
) -> jax.Array:
    """The same of layers stacked on a leading axis, which no device splits: `read(i, index)` gives parts of layer i.

    Each layer is placed by itself and written into the stack, which is donated: there are never two, nor one on the
    host.
    """
    if sharding is None:
        stack, layer_sharding = jnp.zeros(shape, dtype), None
    else:
        axes = tuple(sharding.spec)
        assert not axes or axes[0] is None, "the layer axis of a stack is never split"
        layer_sharding = NamedSharding(sharding.mesh, P(*axes[1:]))
        stack = jnp.zeros(shape, dtype, device=sharding)
    for i in range(shape[0]):
        layer = place(shape[1:], layer_sharding, functools.partial(read, i))
        stack = jax.block_until_ready(_write_layer(stack, layer, i, sharding=sharding))
    return stack


@functools.partial(jax.jit, static_argnames="sharding", donate_argnums=0)
def _write_layer(stack: jax.Array, layer: jax.Array, i: int, *, sharding: Sharding | None) -> jax.Array:
    stack = jax.lax.dynamic_update_index_in_dim(stack, layer, i, axis=0)
    return stack if sharding is None else jax.lax.with_sharding_constraint(stack, sharding)
