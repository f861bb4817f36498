"""Weight-only int8 for frozen parameters: w ≈ q · s with q in -127..127 and one float32 scale per output.

Symmetric, rounded to nearest (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339, section 2.1, with one
scale for each output channel). Quantised are what dominates memory: kernels, scaled per column, and the
embedding, scaled per row. Norms, biases and heads keep their float32.
"""

import jax
import jax.numpy as jnp

from icegrt_jax.models.tree import flatten, map_with_path, unflatten

# Name of a quantised leaf -> name of its scale, and the axis over which the scale is shared.
QUANTIZED = {"kernel": ("kernel_scale", -2), "embedding": ("embedding_scale", -1)}
KEPT = ("head",)  # scalar heads: tiny, and trained
LEVELS = 127.0


def quantized(params: dict) -> dict:
    """The tree with int8 kernels and embedding and their float32 scales beside them."""
    out = {}
    for path, leaf in flatten(params).items():
        module, _, name = path.rpartition("/")
        if not _is_large(path):
            out[path] = leaf
            continue
        scale_name, axis = QUANTIZED[name]
        wide = leaf.astype(jnp.float32)
        scale = jnp.max(jnp.abs(wide), axis=axis, keepdims=True) / LEVELS
        safe = jnp.where(scale > 0, scale, 1.0)  # a column of zeros
        out[path] = jnp.round(wide / safe).astype(jnp.int8)
        out[f"{module}/{scale_name}"] = jnp.squeeze(safe, axis)
    return unflatten(out)


def dequantized(params: dict) -> dict:
    """The tree with every int8 leaf widened to float32; others as they are."""
    leaves, out = flatten(params), {}
    scales = {scale for scale, _ in QUANTIZED.values()}
    for path, leaf in leaves.items():
        module, _, name = path.rpartition("/")
        if name in scales:
            continue
        if leaf.dtype == jnp.int8:
            scale_name, axis = QUANTIZED[name]
            leaf = leaf.astype(jnp.float32) * jnp.expand_dims(leaves[f"{module}/{scale_name}"], axis)
        out[path] = leaf
    return unflatten(out)


def stored_as(params: dict, dtype: str) -> dict:
    """A frozen tree in its storage format: float32, or its kernels and embedding in bfloat16 or int8."""
    if dtype == "int8":
        return quantized(params)

    def stored(path: str, leaf: jax.Array) -> jax.Array:
        return leaf.astype(jnp.dtype(dtype)) if _is_large(path) else leaf

    return map_with_path(stored, params)


def _is_large(path: str) -> bool:
    module, _, name = path.rpartition("/")
    return name in QUANTIZED and module not in KEPT
