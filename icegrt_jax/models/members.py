"""An ensemble: several models of one shape that one program reads, one after another.

own    the tree of each, every leaf with a leading axis of members
base   what each is put onto where they are adapters, held once
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from icegrt_jax.models.lora import LoRAConfig, merged, with_adapter
from icegrt_jax.models.quantize import stored_as


class Members(struct.PyTreeNode):
    """In the place of a parameter tree, for whoever reads scalars.

    own: each leaf [M, ...]. base: a tree, or None where the members are complete. lora: of the adapters.
    """

    own: dict
    base: dict | None = None
    lora: LoRAConfig | None = struct.field(pytree_node=False, default=None)

    @property
    def count(self) -> int:
        """M, how many they are."""
        return jax.tree.leaves(self.own)[0].shape[0]

    def each(self, read: Callable[[dict], jax.Array]) -> jax.Array:
        """`read(complete parameters)` of every member, [..., M]; the activations of one are held at a time."""
        complete = lambda own: own if self.base is None else with_adapter(self.base, own, self.lora)
        return jnp.moveaxis(jax.lax.map(lambda own: read(complete(own)), self.own), 0, -1)

    def member(self, index: int) -> dict:
        """The own tree of one."""
        return jax.tree.map(lambda x: x[index], self.own)

    def whole(self, index: int) -> dict:
        """The complete parameters of one, a scalar model, without an adapter."""
        own = self.member(index)
        if self.base is None:
            return own
        both = merged(self.base, own, self.lora)
        return {name: both[name] for name in ("embed", "layers", "final_norm", "head")}

    def stored_as(self, dtype: str) -> "Members":
        """In the storage format of frozen trees; a base is in its own already, and adapters stay float32."""
        return self.replace(own=stored_as(self.own, dtype)) if self.base is None else self


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of one shape as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def mean_weights(members: Members) -> tuple[dict, LoRAConfig | None]:
    """One model of the mean weights (WARM, arXiv 2401.12187, section 3.1), and the adapter that it is, if it is one.

    The mean of the products of adapters is the product of their factors side by side: an adapter of M times the rank.
    """
    if members.lora is None:
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), members.own), None
    rank, count, old = members.lora.rank, members.count, members.lora
    # alpha / (M rank) is the mean already; alpha / sqrt(M rank) has to be made smaller by sqrt(M) once more.
    alpha = old.alpha * count**-0.5 if old.rslora else old.alpha

    def beside(path: tuple, leaf: jax.Array) -> jax.Array:
        if path[-1].key == "lora_a":  # [M, ..., in, r] -> [..., in, M r]
            return jnp.concatenate(list(leaf), axis=-1)
        if path[-1].key == "lora_b":  # [M, ..., r, out] -> [..., M r, out]
            return jnp.concatenate(list(leaf), axis=-2)
        return jnp.mean(leaf, axis=0)

    return jax.tree_util.tree_map_with_path(beside, members.own), dataclasses.replace(
        old, rank=rank * count, alpha=alpha
    )
