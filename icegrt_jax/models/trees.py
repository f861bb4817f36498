"""Parameter trees by path: nested dicts of arrays, paths such as layers/3/attn/q/kernel."""

from collections.abc import Mapping
from typing import Any

import jax


def path_name(path: tuple) -> str:
    """`layers/3/attn/q/kernel` for a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_with_path(fn, tree: dict, *rest: dict) -> dict:
    """`fn(path, leaf, ...)` over a tree."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(path_name(path), *leaves), tree, *rest)


def flatten(tree: dict) -> dict[str, Any]:
    """The leaves of a tree by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


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
