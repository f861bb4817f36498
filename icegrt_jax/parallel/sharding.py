"""Where arrays live: one table of rules for parameters, optimizer states, caches and activations of all four roles.

A rule names what an axis of an array *is* (rows, heads, …). The layout of the mesh at hand says over which mesh
axes that is split: `TRAINING`, or while responses are sampled `ROLLOUT` (see `rollout.py`).
"""

import functools
import math
import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from icegrt_jax.parallel.mesh import AXES, BATCH_AXES, ROLLOUT_AXES
from icegrt_jax.parallel.placing import put

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
    return put(tree, tree_shardings(tree, mesh))


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


def shard_batch(batch, mesh: Mesh):
    """Host arrays of the global batch as arrays split over the mesh, as far as the number of rows divides."""
    return put(batch, jax.tree.map(lambda x: _row_sharding(x.shape[0], mesh), batch))


def _row_sharding(rows: int, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, spec_of([split_axes(rows, "rows", mesh)]))


def constrain(x: jax.Array, *rules: str | None) -> jax.Array:
    """Keeps an activation split as its rules say (one for each axis) inside a compiled program.

    On one device, and outside a mesh of ours (pmap, a plain call), it does nothing.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names not in LAYOUTS or mesh.size == 1:
        return x
    axes = [split_axes(size, rule, mesh, _ours(mesh)) for size, rule in zip(x.shape, rules, strict=True)]
    return jax.lax.with_sharding_constraint(x, spec_of(axes)) if any(axes) else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(x: jax.Array, rules: tuple[str | None, ...], kept: tuple[str | None, ...]) -> jax.Array:
    """`constrain(x, *rules)`, and of the sum over devices that is its gradient each keeps its part by the rules `kept`.

    `constrain` would have every device keep all of it.
    """
    return constrain(x, *rules)


gathered.defvjp(
    lambda x, rules, kept: (constrain(x, *rules), None), lambda rules, kept, _, gradient: (constrain(gradient, *kept),)
)


def _ours(mesh) -> set[str]:
    """The axes that XLA splits; within `by_rows` some are split already."""
    return {axis for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual}


def splits_over_fsdp(size: int, rule: str) -> bool:
    """Whether an axis of a parameter is split over `fsdp` in training, which it is not if its size does not divide."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.axis_names == AXES and "fsdp" in split_axes(size, rule, mesh, _ours(mesh))


def with_vocabulary(fn, weights, size: int, *arrays):
    """`fn(weights, *arrays)`, a function of each token by itself that makes logits, with the work dealt out.

    The vocabulary is split over `tensor` and `fsdp`, and the hidden states of a chunk of tokens are gathered and
    their gradients summed over `fsdp`. Nobody then holds all of the weights, and the weights' gradient needs
    no sum but over `data`, which is made once, behind the loop over chunks. A vocabulary that does not divide is
    gathered in front of that loop, and every device has the tokens of its own rows.

    Args:
      fn: its results have rows in front, as `arrays` have.
      weights: a tree with the embedding or the unembedding.
      size: V.
      arrays: [B, ...] each.
    """
    if splits_over_fsdp(size, "vocab"):
        return by_rows(fn, constrain_vocabulary(weights), *arrays, axes=("data",))
    return by_rows(fn, weights, *arrays)


def constrain_vocabulary(weights):
    """An embedding [V, D] or unembedding [D, V] split over the vocabulary as it is in front of the logits."""

    def place(path, x):
        rules = {"embedding": ("vocab", None), "kernel": (None, "vocab")}.get(path[-1].key)
        return x if rules is None else constrain(x, *rules)

    return jax.tree_util.tree_map_with_path(place, weights)


def by_rows(fn, weights, *arrays, axes: tuple[str, ...] = BATCH_AXES):
    """`fn(weights, *arrays)`, a function of each row by itself, computed by every device on its own rows.

    For loops over chunks of a batch: the weights are gathered over `axes` once, in front of the loop, and their
    gradient is summed once, behind it. XLA would do both for every chunk. The other mesh axes stay XLA's, and where
    rows are not split this is a plain call.

    Args:
      fn: its results have rows in front, as `arrays` have.
      weights: a tree.
      arrays: [B, ...] each.
      axes: some of BATCH_AXES, the first ones.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names != AXES or AxisType.Manual in mesh.axis_types:
        return fn(weights, *arrays)
    if math.prod(mesh.shape[axis] for axis in axes) == 1 or arrays[0].shape[0] % row_parts(mesh):
        return fn(weights, *arrays)
    rows = P(axes)
    specs = (P(), *(rows,) * len(arrays))
    local = jax.shard_map(fn, in_specs=specs, out_specs=rows, axis_names=set(axes), check_vma=False)
    return local(weights, *arrays)


def cache_rules(ndim: int, *, scanned: bool) -> tuple[str | None, ...]:
    """Of keys and values [B, K, S, H], their scales [B, K, S], or positions [B, S]; scanned layers come in front."""
    heads = ("heads",) if ndim - scanned > 2 else ()
    front = (*(None,) * scanned, "rows", *heads)
    return front + (None,) * (ndim - len(front))


def constrain_cache(cache, *, scanned: bool):
    """The cache split over rows and heads inside a compiled program."""
    return jax.tree.map(lambda x: constrain(x, *cache_rules(x.ndim, scanned=scanned)), cache)


def batch_parts(batch: int) -> int:
    """Parts into which the mesh in use splits a batch of that many rows; 1 outside a mesh of ours."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names not in LAYOUTS:
        return 1
    return math.prod(mesh.shape[axis] for axis in split_axes(batch, "rows", mesh, _ours(mesh)))


def most_anywhere(count: jax.Array) -> jax.Array:
    """The largest of the devices' counts where each has its own rows (`by_rows`): their loops then have one length."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names not in LAYOUTS:
        return count
    apart = tuple(axis for axis in mesh.axis_names if axis not in _ours(mesh))
    return jax.lax.pmax(count, apart) if apart else count


def constrain_batch(tree):
    """Keeps the leading axis of every array split; a gather by a permutation comes back replicated without it."""
    return jax.tree.map(lambda x: constrain(x, "rows", *(None,) * (x.ndim - 1)) if x.ndim else x, tree)


def constrain_params(tree):
    """Keeps a tree of parameters or gradients split as the table says, inside a compiled program."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names not in LAYOUTS or mesh.size == 1 or AxisType.Manual in mesh.axis_types:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.with_sharding_constraint(x, leaf_spec(path_name(path), x.shape, mesh)), tree
    )
