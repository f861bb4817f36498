"""Stored tensors to device arrays, one device's part of one tensor at a time.

Beyond the arrays themselves, the host holds one part and one block of `BLOCK_BYTES` of what is stored; the devices hold
one layer of a stack.
"""

import functools
import gc
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

BLOCK_BYTES = 2**24  # read from disk at a time

Index = tuple[slice, ...]
Fill = Callable[[Index, np.ndarray], None]  # writes the part that the index picks into the array


def new_part(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Host memory for one part. A new one each time: on a CPU it can become the device's array as it is."""
    return np.empty(shape, jnp.dtype(dtype))


def layer_sharding(sharding: Sharding | None) -> Sharding | None:
    """That of one layer, from that of layers stacked on a leading axis, which no device splits."""
    if sharding is None:
        return None
    axes = tuple(sharding.spec)
    assert not axes or axes[0] is None, "the layer axis of a stack is never split"
    return NamedSharding(sharding.mesh, P(*axes[1:]))


def read_part(stored: Any, index: Index, out: np.ndarray, *, transposed: bool) -> None:
    """Reads the part of a stored tensor that `index` picks, in the dtype of `out`.

    Args:
      stored: a slice handle of `safetensors`, which reads from disk when it is indexed.
      index: one slice per axis of the result, of step 1.
      out: the result.
      transposed: the result is the stored matrix transposed.
    """
    shape = stored.get_shape()
    spans = [range(*s.indices(n)) for s, n in zip(index[::-1] if transposed else index, shape, strict=True)]
    target = out.T if transposed else out
    rest = tuple(slice(span.start, span.stop) for span in spans[1:])
    row = 8 * math.prod(target.shape[1:])  # bytes at most: F64 is the widest
    rows = max(BLOCK_BYTES // row, 1)
    for start in range(0, len(target), rows):
        stop = min(start + rows, len(target))
        target[start:stop] = stored[(slice(spans[0].start + start, spans[0].start + stop), *rest)]


def place(shape: tuple[int, ...], dtype: str, sharding: Sharding | None, fill: Fill) -> jax.Array:
    """The array of `shape` whose parts `fill` gives, each when those before it are on their devices.

    Parts that several devices hold are read once. Without a sharding it is on the first device, and not bound to it.
    """
    holders: dict = {}  # slices cannot be hashed before Python 3.12
    devices = sharding.addressable_devices_indices_map(shape) if sharding else {None: (slice(None),) * len(shape)}
    for device, index in devices.items():
        spans = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        holders.setdefault(spans, []).append(device)
    arrays = []
    for spans, devices in holders.items():
        part = new_part(tuple(stop - start for start, stop in spans), dtype)
        fill(tuple(slice(*span) for span in spans), part)
        arrays += [jax.block_until_ready(jax.device_put(part, device)) for device in devices]
        del part
        gc.collect(0)  # JAX lets go of what it has copied when Python collects garbage
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays) if sharding else arrays[0]


def place_stack(
    shape: tuple[int, ...],
    dtype: str,
    sharding: Sharding | None,
    fill: Callable[[int, Index, np.ndarray], None],
) -> jax.Array:
    """The same of layers stacked on a leading axis; `fill(i, index, out)` gives the parts of layer i.

    Each layer is placed by itself and written into the stack, which is donated: there are never two, nor one on the
    host.
    """
    stack = jnp.zeros(shape, dtype, device=sharding)
    for i in range(shape[0]):
        layer = place(shape[1:], dtype, layer_sharding(sharding), functools.partial(fill, i))
        stack = jax.block_until_ready(_write_layer(stack, layer, i, sharding=sharding))
    return stack


@functools.partial(jax.jit, static_argnames="sharding", donate_argnums=0)
def _write_layer(stack: jax.Array, layer: jax.Array, i: int, *, sharding: Sharding | None) -> jax.Array:
    stack = jax.lax.dynamic_update_index_in_dim(stack, layer, i, axis=0)
    return stack if sharding is None else jax.lax.with_sharding_constraint(stack, sharding)
