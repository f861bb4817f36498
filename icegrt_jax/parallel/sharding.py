"""One table from parameter name to mesh axes, the same for the four roles and their optimizer states."""

import math
import re

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from icegrt_jax.parallel.mesh import BATCH_AXES
from icegrt_jax.parallel.placing import put

# The last axes of a leaf; a leading layer axis of scanned layers is never split.
TABLE = (
    (r"embed/embedding$", ("tensor", "fsdp")),
    (r"attn/[qkv]/kernel$", ("fsdp", "tensor")),
    (r"attn/[qkv]/bias$", ("tensor",)),
    (r"attn/o/kernel$", ("tensor", "fsdp")),
    (r"mlp/(gate|up)/kernel$", ("fsdp", "tensor")),
    (r"mlp/down/kernel$", ("tensor", "fsdp")),
    (r"lm_head/kernel$", ("fsdp", "tensor")),
    # Adapters: the side that meets the kernel's axis is split like it, the rank is not.
    (r"attn/[qkv]/lora_a$", ("fsdp", None)),
    (r"attn/[qkv]/lora_b$", (None, "tensor")),
    (r"attn/o/lora_a$", ("tensor", None)),
    (r"attn/o/lora_b$", (None, "fsdp")),
    (r"mlp/(gate|up)/lora_a$", ("fsdp", None)),
    (r"mlp/(gate|up)/lora_b$", (None, "tensor")),
    (r"mlp/down/lora_a$", ("tensor", None)),
    (r"mlp/down/lora_b$", (None, "fsdp")),
)


def path_name(path: tuple) -> str:
    """`params/policy/layers/0/attn/q/kernel` for a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """How one array is split; an axis whose size does not divide stays whole."""
    for pattern, axes in TABLE:
        if re.search(pattern, name) and len(shape) >= len(axes):
            fitting = [
                axis if axis is not None and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(axes, shape[-len(axes) :], strict=True)
            ]
            return P(*(None,) * (len(shape) - len(axes)), *fitting)
    return P()


def tree_shardings(tree, mesh: Mesh):
    """A tree of NamedSharding for parameters, optimizer states or a whole TrainState (arrays or abstract)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, leaf_spec(path_name(path), leaf.shape, mesh)), tree
    )


def shard_tree(tree, mesh: Mesh):
    """The tree with every array placed as the table says."""
    return put(tree, tree_shardings(tree, mesh))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis split over `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def shard_batch(batch, mesh: Mesh):
    """Host arrays of the global batch as arrays split over the mesh."""
    return put(batch, batch_sharding(mesh))


def constrain_batch(tree):
    """Keeps the leading axis split inside a compiled program.

    A gather by a permutation comes back replicated without it. Outside a mesh of ours (pmap, a plain
    call) it does nothing.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or any(axis not in mesh.axis_names for axis in BATCH_AXES):
        return tree
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)

    def constrain(x):
        return jax.lax.with_sharding_constraint(x, P(BATCH_AXES)) if x.ndim and x.shape[0] % parts == 0 else x

    return jax.tree.map(constrain, tree)
