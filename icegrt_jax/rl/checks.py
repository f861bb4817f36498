"""Dtype checks shared by the maths: rewards and statistics are float32, masks are bool.

Annotations name the shapes of all arguments and results, by the letters of `docs/design.md`. A run never
reads them; the tests check every call against them (`tests/rl/conftest.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

# What the functions take; what they return is a jax.Array.
if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped

    Given: TypeAlias = Any  # as a jax.Array is to the type checker
else:
    Given = jax.Array | np.ndarray | np.generic


def as_float32(**arrays: Shaped[Given, " ..."]) -> list[Float[jax.Array, " ..."]]:
    """The arrays in float32, in order; anything that is not floating point raises.

    An integer array would silently truncate what is added to it (0.7 becomes 0), so it is
    refused and not converted: the mistake is where the array was made.
    """
    converted = []
    for name, x in arrays.items():
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} is {x.dtype}, expected float32; convert it where it is made.")
        converted.append(x.astype(jnp.float32))
    return converted


def as_mask(mask: Shaped[Given, "*S"], name: str = "mask") -> Bool[jax.Array, "*S"]:
    """The mask as an array; raises unless it is boolean."""
    mask = jnp.asarray(mask)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"{name} is {mask.dtype}, expected bool; compare it first, e.g. {name} != 0.")
    return mask
