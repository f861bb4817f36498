"""Float32 products in float32: without being told a TPU makes them of bfloat16 factors, a GPU of TF32."""

import jax
import jax.numpy as jnp


def float32_products(*factors: jax.Array) -> jax.lax.Precision | None:
    """The `precision` of a product of `factors`: HIGHEST where all of them are float32.

    A product of two bfloat16 numbers is exact in float32, in which it is summed: there HIGHEST would gain nothing.
    """
    return jax.lax.Precision.HIGHEST if all(x.dtype == jnp.float32 for x in factors) else None
