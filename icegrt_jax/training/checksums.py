"""Checksums of what arrays hold, the same wherever their parts lie and whoever computes them.

Each element is mixed with its place and all are added modulo 2**32: one element that changes changes the sum, other
differences go unseen once in 2**32. A sum does not mind how its parts are laid out, so a checkpoint that is read onto
another mesh is checked by what is in memory then, and no file is read twice. Devices compute it where the parts are;
arrays in the memory of one host are added there, without compiling anything.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.hosts import sync

_PLACES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D, 0xFD7046C5, 0xB55A4F09)  # odd
_MIX = (0x85EBCA6B, 0xC2B2AE35)  # of MurmurHash3's finaliser, by Austin Appleby
_AT_A_TIME = 2**16  # elements: they and what is made of them stay in a core's cache


def of_tree(tree: Any) -> dict[str, int]:
    """The checksum of each array of a tree, typed keys included, by its name; the same on every process."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    arrays = [_data(leaf) for _, leaf in leaves]
    if all(array.is_fully_addressable and _is_on_the_host(array) for array in arrays):
        sums = [_sum_on_host(np.asarray(array)) for array in arrays]
    else:
        sums = [int(x) for x in sync.fetch(_sums_on_devices(arrays))]
    return dict(zip(names, sums, strict=True))


def _data(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _is_on_the_host(array: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in array.sharding.device_set)


@jax.jit
def _sums_on_devices(arrays: list[jax.Array]) -> list[jax.Array]:
    return [_sum(array) for array in arrays]


def _sum(array: jax.Array) -> jax.Array:
    words = _words_on_device(array)
    place = jnp.uint32(0)
    for axis, factor in zip(range(words.ndim), _PLACES, strict=False):
        place = place + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(factor)
    return jnp.sum(_mixed(words ^ place, jnp.uint32), dtype=jnp.uint32)


def _words_on_device(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_ or array.dtype.itemsize == 1:
        array = array if array.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(array, jnp.uint8)
        return array.astype(jnp.uint32)
    if array.dtype.itemsize == 2:
        return jax.lax.bitcast_convert_type(array, jnp.uint16).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(array, jnp.uint32)  # of 8 bytes two words, along another axis


def _sum_on_host(array: np.ndarray) -> int:
    """What `_sum` gives, a part of the array at a time."""
    words = np.ascontiguousarray(array)
    width = words.dtype.itemsize
    words = words.view({1: np.uint8, 2: np.uint16}.get(width, np.uint32)).reshape(array.shape + (2,) * (width == 8))
    if not words.size:
        return 0
    shape = words.shape or (1,)
    rows = words.reshape(shape[0], -1)
    inner = np.zeros(shape[1:], np.uint32)
    for axis, (size, factor) in enumerate(zip(shape[1:], _PLACES[1:], strict=False)):
        steps = np.arange(size, dtype=np.uint32) * np.uint32(factor)
        inner += steps.reshape((-1,) + (1,) * (len(shape) - 2 - axis))
    inner, total = inner.reshape(1, -1), 0
    for part in _parts(rows.shape):
        outer = np.arange(part[0].start, part[0].stop, dtype=np.uint32)[:, None] * np.uint32(_PLACES[0])
        mixed = _mixed(rows[part] ^ (inner[:, part[1]] + outer), np.uint32)
        total += int(np.sum(mixed, dtype=np.uint32))
    return total % 2**32


def _parts(shape: tuple[int, int]):
    """Blocks of a matrix of about `_AT_A_TIME` elements."""
    columns = min(shape[1], _AT_A_TIME)
    rows = max(1, math.ceil(_AT_A_TIME / columns))
    for row in range(0, shape[0], rows):
        for column in range(0, shape[1], columns):
            yield slice(row, min(row + rows, shape[0])), slice(column, column + columns)


def _mixed(x: Any, uint32: Any) -> Any:
    """One to one, each bit depending on all."""
    x = (x ^ (x >> uint32(16))) * uint32(_MIX[0])
    x = (x ^ (x >> uint32(13))) * uint32(_MIX[1])
    return x ^ (x >> uint32(16))
