"""Parameter trees by path, such as layers/3/attn/q/kernel."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params


def abstract_params(config: ModelConfig, *, scalar_head: bool = False) -> dict:
    """The parameter tree as shapes and dtypes, nothing allocated."""
    return jax.tree.map(lambda x: x, _traced_params(config, scalar_head))  # a tree of the caller's own


@functools.cache
def _traced_params(config: ModelConfig, scalar_head: bool) -> dict:
    return jax.eval_shape(lambda key: init_params(key, config, scalar_head=scalar_head), jax.random.key(0))


def map_with_path(fn: Callable, tree: dict, *rest: dict) -> dict:
    """`fn(path, leaf, ...)` over a tree."""
    named = lambda path, *leaves: fn(jax.tree_util.keystr(path, simple=True, separator="/"), *leaves)
    return jax.tree_util.tree_map_with_path(named, tree, *rest)


def flatten(tree: dict) -> dict[str, Any]:
    """The leaves of a tree by path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unstacked(params: dict, config: ModelConfig) -> tuple[dict, ModelConfig]:
    """The same model with one subtree per layer where layers are stacked for a scan, and its config."""
    if not config.scan_layers:
        return params, config
    layers = {str(i): jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(config.num_layers)}
    return {**params, "layers": layers}, dataclasses.replace(config, scan_layers=False)


def unflatten(leaves: Mapping[str, Any]) -> dict:
    """The nested dict of leaves by path."""
    tree: dict = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree
