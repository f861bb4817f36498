"""Keys and values of earlier tokens, in the compute dtype or in int8 with a scale for each slot and head.

A cache is a tree of one dict a layer: `k`, `v` [B, K, S, H]; in int8 also `k_scale`, `v_scale` f32[B, K, S]; where
layers look back over a window only, also `positions` i32[B, S] of the tokens in the slots. Scanned layers have a
leading layer axis on all of them.
"""

import jax
import jax.numpy as jnp

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.sharding.constrain import constrain_cache


def empty_cache(config: ModelConfig, batch: int, length: int, dtype: str = "compute") -> dict:
    """A cache of `length` slots for `batch` rows; `dtype` is one of CACHE_DTYPES."""
    shape = (batch, config.num_kv_heads, length, config.head_dim)
    layer: dict[str, tuple] = {
        name: (shape, jnp.int8 if dtype == "int8" else jnp.dtype(config.dtype)) for name in ("k", "v")
    }
    if dtype == "int8":
        layer |= {name: (shape[:-1], jnp.float32) for name in ("k_scale", "v_scale")}
    if config.layer_windows:
        layer["positions"] = ((batch, length), jnp.int32)
    layers = (config.num_layers,) if config.scan_layers else ()
    empty = lambda: {name: jnp.zeros((*layers, *shape), dtype) for name, (shape, dtype) in layer.items()}
    cache = empty() if config.scan_layers else {str(i): empty() for i in range(config.num_layers)}
    return constrain_cache(cache, scanned=config.scan_layers)


def quantized(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x f[..., H] as int8 and a scale f32[...]: the largest element of each vector becomes 127."""
    x = x.astype(jnp.float32)
    scale = jnp.maximum(jnp.max(jnp.abs(x), axis=-1), 1e-12) / 127.0
    return jnp.round(x / scale[..., None]).astype(jnp.int8), scale


def write(
    cache: dict,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    index: jax.Array | int,
    layer: jax.Array | None = None,
) -> dict:
    """The cache with k, v [B, K, L, H] of tokens at `positions` i32[B, L] in slots index, …, index + L - 1.

    Args:
      layer: i32[], which of the stacked layers of `cache`, that is written where it lies; None for a layer's own.
    """
    new = {"k": k, "v": v}
    if "k_scale" in cache:
        (new["k"], new["k_scale"]), (new["v"], new["v_scale"]) = quantized(k), quantized(v)
    if "positions" in cache:
        new["positions"] = positions

    def put(name):
        axis, update = 1 if name == "positions" else 2, new[name].astype(cache[name].dtype)
        start = [index if i == axis else 0 for i in range(update.ndim)]
        if layer is None:
            return jax.lax.dynamic_update_slice(cache[name], update, start)
        return jax.lax.dynamic_update_slice(cache[name], update[None], [layer, *start])

    return {name: put(name) for name in cache}


def of_layer(cache: dict, layer: jax.Array | None) -> dict:
    """One layer of a stack, or the layer's own cache where `layer` is None."""
    if layer is None:
        return cache
    return {name: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for name, x in cache.items()}


def insert_rows(cache: dict, new: dict, rows: jax.Array, *, scanned: bool) -> dict:
    """The cache with `new`, a cache of fewer slots, in the first slots of `rows` i32[b]; rows past the end of the
    cache are dropped. A `new` of as many rows takes the place of all of them, in order."""
    layers = (slice(None),) if scanned else ()
    axis = len(layers)

    def put(cache, new):
        if new.shape[axis] == cache.shape[axis]:
            # All rows at once go in their order, where they lie: on a mesh a scatter would gather them everywhere.
            return jnp.pad(new, [(0, size - had) for size, had in zip(cache.shape, new.shape, strict=True)])
        extent = tuple(slice(0, size) for size in new.shape[len(layers) + 1 :])
        return cache.at[(*layers, rows, *extent)].set(new, mode="drop")

    return jax.tree.map(put, cache, new)


def repeat_rows(cache: dict, count: int, *, scanned: bool) -> dict:
    """Every row `count` times, copies beside each other."""
    return jax.tree.map(lambda x: jnp.repeat(x, count, axis=1 if scanned else 0), cache) if count > 1 else cache
