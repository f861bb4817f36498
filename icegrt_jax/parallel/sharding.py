"""Where arrays live: one table of rules for parameters, optimizer states, caches and activations of all four roles.

A rule names what an axis of an array *is* (rows, heads, …). The layout of the mesh at hand says over which mesh
axes that is split: `TRAINING`, or while responses are sampled `ROLLOUT` (see `rollout.py`).
"""

import math
import re

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from icegrt_jax.parallel.mesh import AXES, BATCH_AXES, ROLLOUT_AXES

# The last axes of a leaf; a leading layer axis of scanned layers is never split.
TABLE = (
    (r"embed/embedding$", ("features", "width")),
    (r"attn/[qkv]/kernel$", ("width", "heads")),
    (r"attn/[qkv]/bias$", ("heads",)),
    (r"attn/o/kernel$", ("heads", "width")),
    (r"mlp/(gate|up)/kernel$", ("width", "features")),
    (r"mlp/down/kernel$", ("features", "width")),
    (r"lm_head/kernel$", ("width", "features")),
    # Adapters: the side that meets the kernel's axis is split like it, the rank is not.
    (r"attn/[qkv]/lora_a$", ("width", None)),
    (r"attn/[qkv]/lora_b$", (None, "heads")),
    (r"attn/o/lora_a$", ("heads", None)),
    (r"attn/o/lora_b$", (None, "width")),
    (r"mlp/(gate|up)/lora_a$", ("width", None)),
    (r"mlp/(gate|up)/lora_b$", (None, "features")),
    (r"mlp/down/lora_a$", ("features", None)),
    (r"mlp/down/lora_b$", (None, "width")),
)

# What is split over which mesh axes; of several, the last ones are left out until the size divides.
TRAINING = {
    "rows": BATCH_AXES,  # of a batch
    "mlp_rows": BATCH_AXES,  # the same rows in the MLP and in front of the vocabulary
    "width": ("fsdp",),  # D of a parameter: gathered where it is used
    "heads": ("tensor",),
    "features": ("tensor",),  # F of the MLP, V of the vocabulary
}
ROLLOUT = {
    "rows": ("data", "fsdp_copies", "fsdp_rows", "tensor_rows"),  # of the cache, too
    "mlp_rows": ("data", "fsdp_copies"),  # weights stay put: rows are gathered instead
    "width": (),
    "heads": ("tensor_heads", "fsdp_heads"),
    "features": ("tensor_rows", "tensor_heads", "fsdp_rows", "fsdp_heads"),
}
LAYOUTS = {AXES: TRAINING, ROLLOUT_AXES: ROLLOUT}


def path_name(path: tuple) -> str:
    """`params/policy/layers/0/attn/q/kernel` for a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def split_axes(size: int, rule: str | None, mesh) -> tuple[str, ...]:
    """The mesh axes over which an array's axis of that size is split; of axes that do not divide it stays whole."""
    axes = LAYOUTS[mesh.axis_names][rule] if rule else ()
    while axes and size % math.prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    return axes


def spec_of(axes_of_each: list[tuple[str, ...]]) -> P:
    """A PartitionSpec of the mesh axes that split each axis."""
    return P(*(axes if len(axes) > 1 else (axes[0] if axes else None) for axes in axes_of_each))


def leaf_axes(name: str, shape: tuple[int, ...], mesh) -> list[tuple[str, ...]]:
    """For each axis of a parameter or its moments the mesh axes that split it."""
    for pattern, rules in TABLE:
        if re.search(pattern, name) and len(shape) >= len(rules):
            whole = [()] * (len(shape) - len(rules))
            return whole + [
                split_axes(size, rule, mesh) for size, rule in zip(shape[-len(rules) :], rules, strict=True)
            ]
    return []


def leaf_spec(name: str, shape: tuple[int, ...], mesh) -> P:
    """How one array is split, as the table says."""
    return spec_of(leaf_axes(name, shape, mesh))


def tree_shardings(tree, mesh: Mesh):
    """A tree of NamedSharding for parameters, optimizer states or a whole TrainState (arrays or abstract)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, leaf_spec(path_name(path), leaf.shape, mesh)), tree
    )


def shard_tree(tree, mesh: Mesh):
    """The tree with every array placed as the table says."""
    return jax.device_put(tree, tree_shardings(tree, mesh))


def part_bytes(x, axes_of_each: list[tuple[str, ...]], mesh) -> int:
    """Bytes of each device's part of an array that is split over these mesh axes."""
    parts = math.prod(mesh.shape[axis] for axes in axes_of_each for axis in axes)
    return math.prod(x.shape) * x.dtype.itemsize // parts


def device_bytes(tree, mesh) -> int:
    """Bytes of a tree (arrays or abstract) on each device, placed as the table says."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return sum(part_bytes(leaf, leaf_axes(path_name(path), leaf.shape, mesh), mesh) for path, leaf in leaves)


def row_parts(mesh: Mesh) -> int:
    """Over how many devices the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in LAYOUTS[mesh.axis_names]["rows"])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis split over the devices that share the rows."""
    return NamedSharding(mesh, P(LAYOUTS[mesh.axis_names]["rows"]))


def shard_batch(batch, mesh: Mesh):
    """Host arrays of the global batch as arrays split over the mesh."""
    return jax.device_put(batch, batch_sharding(mesh))


def batch_parts(batch: int) -> int:
    """Parts into which the mesh in use splits a batch of that many rows; 1 outside a mesh of ours."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names not in LAYOUTS:
        return 1
    return math.prod(mesh.shape[axis] for axis in split_axes(batch, "rows", mesh))


def constrain(x: jax.Array, *rules: str | None) -> jax.Array:
    """Keeps an activation split as its rules say (one for each axis) inside a compiled program.

    On one device, and outside a mesh of ours (pmap, a plain call), it does nothing.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names not in LAYOUTS or mesh.size == 1:
        return x
    axes = [split_axes(size, rule, mesh) for size, rule in zip(x.shape, rules, strict=True)]
    return jax.lax.with_sharding_constraint(x, spec_of(axes)) if any(axes) else x


def cache_rules(config) -> tuple[str | None, ...]:
    """Of keys and values f[B, K, S, H]; scanned layers have an axis in front."""
    return (*(None,) * config.scan_layers, "rows", "heads", None, None)


def constrain_cache(cache, config):
    """The cache split over rows and heads inside a compiled program."""
    rules = cache_rules(config)
    heads = rules.index("heads")

    def split(x):  # scales [B, K, S] and positions [B, S] are split as far as they have the axes
        own = rules[: x.ndim] if x.ndim >= len(rules) - 1 else rules[:heads]
        return constrain(x, *own, *(None,) * (x.ndim - len(own)))

    return jax.tree.map(split, cache)


def constrain_batch(tree):
    """Keeps the leading axis of every array split; a gather by a permutation comes back replicated without it."""
    return jax.tree.map(lambda x: constrain(x, "rows", *(None,) * (x.ndim - 1)) if x.ndim else x, tree)


def constrain_params(tree):
    """Keeps a tree of parameters or gradients split as the table says, inside a compiled program."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names not in LAYOUTS or mesh.size == 1:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.with_sharding_constraint(x, leaf_spec(path_name(path), x.shape, mesh)), tree
    )
