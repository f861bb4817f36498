"""How activations and parameters are kept split inside a compiled program."""

import functools
import math

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from icegrt_jax.sharding.mesh import AXES, BATCH_AXES
from icegrt_jax.sharding.rules import LAYOUTS, cache_rules, leaf_spec, path_name, row_parts, spec_of, split_axes


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
