"""The layout for sampling, over the same devices: weights stay put and no parameter is gathered per token.

Training splits every matrix over `fsdp` and gathers it where it is used. A decode step would gather all of them
for one token per row. So the policy is moved once per iteration, by a compiled program and in the dtype it
computes in, to where its matrices are split over heads and features: over `tensor` and as much of `fsdp` as
makes up `ways`. The rest of `fsdp`, and `data`, hold copies that sample different rows. Only rows travel.

    fsdp    = fsdp_copies x fsdp_rows x fsdp_heads      ways = fsdp_rows x fsdp_heads x tensor
    tensor  = tensor_rows x tensor_heads

Attention is split over `*_heads`, whose product divides the key-value heads. What is left of `ways` is `*_rows`:
there attention and its cache are split over rows instead, with whole attention weights, and the MLP and the
vocabulary over features. With as many heads as ways both are 1 and this is plain tensor parallelism.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding

from icegrt_jax.models.cache import empty_cache
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.tree import flatten, map_with_path
from icegrt_jax.sharding.mesh import ROLLOUT_AXES, possible_ways
from icegrt_jax.sharding.rules import (
    ROLLOUT,
    cache_rules,
    device_bytes,
    leaf_axes,
    part_bytes,
    spec_of,
    split_axes,
)

# A training axis in the axes of the rollout.
PARTS = {"fsdp": ("fsdp_copies", "fsdp_rows", "fsdp_heads"), "tensor": ("tensor_rows", "tensor_heads")}


def rollout_mesh(mesh: Mesh, model: ModelConfig, ways: int) -> Mesh:
    """The training mesh with its axes taken apart, its devices in the same order.

    Args:
      mesh: of the run.
      model: the policy's shape; its key-value heads decide how attention is split.
      ways: over how many devices one copy of the weights is split, one of `mesh.possible_ways`.
    """
    tensor = mesh.shape["tensor"]
    tensor_heads = math.gcd(tensor, model.num_kv_heads)
    taken = ways // tensor
    fsdp_heads = math.gcd(taken, model.num_kv_heads // tensor_heads)
    fsdp = (mesh.shape["fsdp"] // taken, taken // fsdp_heads, fsdp_heads)
    shape = (mesh.shape["data"], *fsdp, tensor // tensor_heads, tensor_heads)
    return Mesh(mesh.devices.reshape(shape), ROLLOUT_AXES, axis_types=(AxisType.Auto,) * len(ROLLOUT_AXES))


def rollout_layout(mesh: Mesh, model: ModelConfig, params: dict, ways: int = 0) -> Mesh:
    """The mesh to sample on; `ways` is `mesh.rollout_tensor`, and 0 stands for `choose_ways`.

    Args:
      params: the policy's complete tree, arrays or abstract.
    """
    return rollout_mesh(mesh, model, ways or choose_ways(mesh, model, params))


def choose_ways(mesh: Mesh, model: ModelConfig, params: dict) -> int:
    """The smallest split whose copy takes no more memory than the policy in float32 does in the training layout.

    That is what its gradient takes in an update, so sampling does not decide how much memory a run needs.

    Args:
      params: the policy's complete tree, arrays or abstract.
    """
    in_float32 = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), params)
    limit = device_bytes(in_float32, mesh)
    copy = jax.eval_shape(functools.partial(as_computed, dtype=model.dtype), params)
    ways = possible_ways(mesh)
    fitting = (n for n in ways if device_bytes(copy, rollout_mesh(mesh, model, n)) <= limit)
    return next(fitting, ways[-1])


def as_computed(params: dict, *, dtype: str) -> dict:
    """Kernels, embeddings and adapters in the compute dtype where that is smaller, as every use casts them anyway."""

    return map_with_path(lambda path, leaf: leaf.astype(dtype) if _shrinks(path, leaf, dtype) else leaf, params)


def _shrinks(path: str, leaf: jax.Array, dtype: str) -> bool:
    large = path.rpartition("/")[2] in ("kernel", "embedding", "lora_a", "lora_b")
    return large and leaf.dtype.itemsize > jnp.dtype(dtype).itemsize


def lies_already(params: dict, model: ModelConfig, mesh: Mesh) -> bool:
    """Whether training has the policy as it samples, whole on every device and in its dtype: no copy is made."""
    whole = mesh.shape["fsdp"] == mesh.shape["tensor"] == 1
    return whole and not any(_shrinks(path, leaf, model.dtype) for path, leaf in flatten(params).items())


def to_rollout(params: dict, model: ModelConfig, mesh: Mesh, rollout: Mesh) -> dict:
    """The policy where it samples; the same arrays where it `lies_already`.

    Args:
      params: the policy's complete tree, placed as in training; adapters and int8 kernels stay what they are.
      model: its shape.
      mesh: of the run.
      rollout: from `rollout_mesh`.
    """
    if lies_already(params, model, mesh):
        return params
    return moved_to_rollout(params, dtype=model.dtype, mesh=mesh, rollout=rollout)


@functools.partial(jax.jit, static_argnames=("dtype", "mesh", "rollout"))
def moved_to_rollout(params: dict, *, dtype: str, mesh: Mesh, rollout: Mesh) -> dict:
    """Cast first, then an exchange over what is taken of fsdp, then a gather over its copies.

    Said in these steps, because XLA would gather every matrix whole and cut its part out of it.
    """

    def move(path: str, leaf: jax.Array) -> jax.Array:
        now = [
            tuple(part for axis in axes for part in PARTS.get(axis, (axis,)))
            for axes in leaf_axes(path, leaf.shape, mesh)
        ]
        goal = leaf_axes(path, leaf.shape, rollout)
        used = {axis for axes in goal for axis in axes}
        between = [to or tuple(axis for axis in axes if axis not in used) for axes, to in zip(now, goal, strict=True)]
        for axes_of_each in (now, between, goal):
            leaf = jax.lax.with_sharding_constraint(leaf, NamedSharding(rollout, spec_of(axes_of_each)))
        return leaf

    return map_with_path(move, as_computed(params, dtype=dtype))


def ways_of(rollout: Mesh) -> int:
    """Over how many devices one copy of the weights is split."""
    return math.prod(rollout.shape[axis] for axis in ROLLOUT["features"])


def layout_bytes(
    params: dict, model: ModelConfig, mesh: Mesh, rollout: Mesh, *, rows: int, length: int, cache_dtype: str = "compute"
) -> dict[str, int]:
    """Bytes per device of the policy as trained, of its copy for sampling (0 where it `lies_already`) and of the cache.

    Args:
      params: the policy's complete tree, arrays or abstract.
      model: its shape.
      mesh: of the run.
      rollout: from `rollout_layout`.
      rows: responses sampled at a time.
      length: slots of the cache, prompt and response.
      cache_dtype: of keys and values, "compute" for that of the model, or "int8".
    """
    copy = jax.eval_shape(functools.partial(as_computed, dtype=model.dtype), params)
    cache = jax.tree.leaves(jax.eval_shape(lambda: empty_cache(model, rows, length, cache_dtype)))

    def split(x):
        rules = cache_rules(x.ndim, scanned=model.scan_layers)
        return [split_axes(size, rule, rollout) for size, rule in zip(x.shape, rules, strict=True)]

    return {
        "training": device_bytes(params, mesh),
        "rollout": 0 if lies_already(params, model, mesh) else device_bytes(copy, rollout),
        "cache": sum(part_bytes(x, split(x), rollout) for x in cache),
    }
