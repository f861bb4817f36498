"""Where arrays live: one table of rules for parameters, optimizer states, caches and activations of all four roles.

A rule names what an axis of an array *is* (rows, heads, …). The layout of the mesh at hand says over which mesh
axes that is split: `TRAINING`, or while responses are sampled `ROLLOUT` (see `sampling/layout.py`).
"""

import math
import re

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from icegrt_jax.errors import UserError
from icegrt_jax.sharding.mesh import AXES, BATCH_AXES, ROLLOUT_AXES

# The last axes of a leaf; a leading layer axis of scanned layers is never split.
TABLE = (
    (r"embed/embedding$", ("features", "width")),
    (r"attn/[qkv]/kernel$", ("width", "heads")),
    (r"attn/[qkv]/bias$", ("heads",)),
    (r"attn/o/kernel$", ("heads", "width")),
    (r"mlp/(gate|up)/kernel$", ("width", "features")),
    (r"mlp/down/kernel$", ("features", "width")),
    (r"lm_head/kernel$", ("width", "features")),
    # Adapters: the side that meets the kernel's axis is split like it, and in training over `fsdp`; the rank is not.
    (r"attn/[qkv]/lora_a$", ("width", None)),
    (r"attn/[qkv]/lora_b$", (None, "adapter_heads")),
    (r"attn/o/lora_a$", ("adapter_heads", None)),
    (r"attn/o/lora_b$", (None, "width")),
    (r"mlp/(gate|up)/lora_a$", ("width", None)),
    (r"mlp/(gate|up)/lora_b$", (None, "adapter_features")),
    (r"mlp/down/lora_a$", ("adapter_features", None)),
    (r"mlp/down/lora_b$", (None, "width")),
)
# Whole on every device, and meant to be: norms, biases that meet no split axis, the scales of int8, scalar heads. Each
# has one axis of the model only, so none grows with its square.
WHOLE = r"(norm/scale|bias|(kernel|embedding)_scale|(^|/)head/kernel)$"
# Elements of a leaf that needs no line (1 MiB in float32): counters, keys, coefficients. A matrix of a model that
# is worth a mesh has more, and of those that have fewer a copy on every device costs nothing.
SMALL = 2**18

# What is split over which mesh axes; of several, the last ones are left out until the size divides.
TRAINING = {
    "rows": BATCH_AXES,  # of a batch
    "mlp_rows": BATCH_AXES,  # the same rows in the MLP and in front of the vocabulary
    "width": ("fsdp",),  # D of a parameter: gathered where it is used
    "heads": ("tensor",),
    "features": ("tensor",),  # F of the MLP, V of the vocabulary where it is stored
    "adapter_heads": ("tensor", "fsdp"),
    "adapter_features": ("tensor", "fsdp"),
    # In front of the logits the vocabulary is split further and the rows are gathered: no device holds all of V.
    "vocab": ("tensor", "fsdp"),
    "vocab_rows": ("data",),
}
ROLLOUT = {
    "rows": ("data", "fsdp_copies", "fsdp_rows", "tensor_rows"),  # of the cache, too
    "mlp_rows": ("data", "fsdp_copies"),  # weights stay put: rows are gathered instead
    "width": (),
    "heads": ("tensor_heads", "fsdp_heads"),
    "features": ("tensor_rows", "tensor_heads", "fsdp_rows", "fsdp_heads"),
    "adapter_heads": ("tensor_heads", "fsdp_heads"),
    "adapter_features": ("tensor_rows", "tensor_heads", "fsdp_rows", "fsdp_heads"),
    "vocab": ("tensor_rows", "tensor_heads", "fsdp_rows", "fsdp_heads"),
    "vocab_rows": ("data", "fsdp_copies"),
}
LAYOUTS = {AXES: TRAINING, ROLLOUT_AXES: ROLLOUT}


def path_name(path: tuple) -> str:
    """`params/policy/layers/0/attn/q/kernel` for a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def split_axes(size: int, rule: str | None, mesh, among: set[str] | None = None) -> tuple[str, ...]:
    """The mesh axes (of those in `among`) that split an array's axis of that size; what does not divide is whole."""
    axes = LAYOUTS[mesh.axis_names][rule] if rule else ()
    axes = tuple(axis for axis in axes if among is None or axis in among)
    while axes and size % math.prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    return axes


def spec_of(axes_of_each: list[tuple[str, ...]]) -> P:
    """A PartitionSpec of the mesh axes that split each axis."""
    return P(*(axes if len(axes) > 1 else (axes[0] if axes else None) for axes in axes_of_each))


def leaf_axes(name: str, shape: tuple[int, ...], mesh) -> list[tuple[str, ...]]:
    """For each axis of a parameter or its moments the mesh axes that split it.

    The moments of an optimizer end with the name of their parameter and are split like it. What matches no line of
    the table is refused, on one device as well: on many it would be whole on each of them without a word.
    """
    for pattern, rules in TABLE:
        if re.search(pattern, name) and len(shape) >= len(rules):
            whole = [()] * (len(shape) - len(rules))
            return whole + [
                split_axes(size, rule, mesh) for size, rule in zip(shape[-len(rules) :], rules, strict=True)
            ]
    if math.prod(shape) > SMALL and not re.search(WHOLE, name):
        raise UserError(
            f"parameter {name} {list(shape)} matches no sharding rule and would be whole on every device; "
            "add a line with the rules of its axes to TABLE in icegrt_jax/sharding/rules.py, or its name to WHOLE."
        )
    return []


def leaf_spec(name: str, shape: tuple[int, ...], mesh) -> P:
    """How one array is split, as the table says."""
    return spec_of(leaf_axes(name, shape, mesh))


def tree_shardings(tree, mesh: Mesh):
    """A tree of NamedSharding for parameters, optimizer states or a whole TrainState (arrays or abstract)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, leaf_spec(path_name(path), leaf.shape, mesh)), tree
    )


def part_bytes(x, axes_of_each: list[tuple[str, ...]], mesh) -> int:
    """Bytes of each device's part of an array that is split over these mesh axes."""
    parts = math.prod(mesh.shape[axis] for axes in axes_of_each for axis in axes)
    return math.prod(x.shape) * x.dtype.itemsize // parts


def device_bytes(tree, mesh) -> int:
    """Bytes of a tree (arrays or abstract) on each device, placed as the table says."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return sum(part_bytes(leaf, leaf_axes(path_name(path), leaf.shape, mesh), mesh) for path, leaf in leaves)


def row_parts(mesh) -> int:
    """Over how many devices the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in LAYOUTS[mesh.axis_names]["rows"])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis split over the devices that share the rows."""
    return NamedSharding(mesh, P(LAYOUTS[mesh.axis_names]["rows"]))


def cache_rules(ndim: int, *, scanned: bool) -> tuple[str | None, ...]:
    """Of keys and values [B, K, S, H], their scales [B, K, S], or positions [B, S]; scanned layers come in front."""
    heads = ("heads",) if ndim - scanned > 2 else ()
    front = (*(None,) * scanned, "rows", *heads)
    return front + (None,) * (ndim - len(front))
