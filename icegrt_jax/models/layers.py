"""The small modules that a decoder is made of, in flax.linen: norm, linear map, embedding and gated MLP."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.precision import float32_products
from icegrt_jax.sharding.constrain import constrain, splits_over_fsdp

ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


def parameter(module: nn.Module, name: str, init: Callable, shape: tuple[int, ...]) -> jax.Array:
    """A module's parameter of that name, made by `init` in float32 where there is none.

    For one that is there `Module.param` traces `init` as well, to compare the shapes: more than half of the time in
    which the forward pass of a small model is traced.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, jnp.float32)
    found: jax.Array = module.get_variable("params", name)
    if found.shape != shape:
        where = "/".join((*module.path, name))
        raise ValueError(f"parameter {where} has the shape {found.shape}; this model's is {shape}.")
    return found


class RMSNorm(nn.Module):
    """x / rms(x) * scale, computed in float32 (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4).

    Zero-centred, as in Gemma: the factor is 1 + scale.
    """

    eps: float
    zero_centred: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros if self.zero_centred else nn.initializers.ones
        scale = parameter(self, "scale", init, (x.shape[-1],)).astype(jnp.float32)
        scale = 1.0 + scale if self.zero_centred else scale
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        return (normed * jnp.expand_dims(scale, range(x.ndim - 1))).astype(x.dtype)


def norm(config: ModelConfig, name: str) -> RMSNorm:
    """The RMSNorm of this kind of model."""
    return RMSNorm(config.norm_eps, config.zero_centred_norm, name=name)


class Linear(nn.Module):
    """x @ kernel (+ bias) with kernel [in, out], in the dtype of x."""

    features: int
    init_scale: float = 1.0
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        kernel = parameter(self, "kernel", init, (x.shape[-1], self.features))
        # Flat rows: with a batch axis in the way, XLA's CPU back end copies what it transposes in the backward pass.
        rows = x.reshape(-1, x.shape[-1])
        precision = float32_products(x)
        out = jnp.matmul(rows, kernel.astype(x.dtype), precision=precision).reshape(*x.shape[:-1], self.features)
        if self.has_variable("params", "kernel_scale"):  # int8, see `quantize.py`
            scale: jax.Array = self.get_variable("params", "kernel_scale")
            out = out * jnp.expand_dims(scale.astype(out.dtype), range(out.ndim - 1))
        if self.has_variable("params", "lora_a"):  # its scale is in lora_b, see `lora.py`
            a: jax.Array = self.get_variable("params", "lora_a").astype(x.dtype)
            b: jax.Array = self.get_variable("params", "lora_b").astype(x.dtype)
            out = out + jnp.matmul(jnp.matmul(x, a, precision=precision), b, precision=precision)
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))
            out += jnp.expand_dims(bias.astype(x.dtype), range(x.ndim - 1))
        return out


class Embed(nn.Module):
    """Rows of the embedding, in the compute dtype."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        init = nn.initializers.normal(c.init_std)
        table = parameter(self, "embedding", init, (c.vocab_size, c.d_model))
        if splits_over_fsdp(c.d_model, "width"):
            # Every device looks up its part of the width, for the rows of all; then rows and widths are exchanged.
            rows = jnp.take(table, constrain(tokens, "vocab_rows", None), axis=0).astype(jnp.dtype(c.dtype))
            rows = constrain(constrain(rows, "vocab_rows", None, "width"), "rows", None, None)
        else:
            rows = jnp.take(constrain(table, "features", None), tokens, axis=0).astype(jnp.dtype(c.dtype))
        if self.has_variable("params", "embedding_scale"):
            scale = jnp.take(self.get_variable("params", "embedding_scale"), tokens, axis=0)
            rows = rows * scale[..., None].astype(rows.dtype)
        return rows


def softcap(x: jax.Array, cap: float) -> jax.Array:
    """cap * tanh(x / cap), or x where cap is 0 (Gemma 2, arXiv 2408.00118, section 2)."""
    return cap * jnp.tanh(x / cap) if cap else x


class MLP(nn.Module):
    """SwiGLU or GeGLU (Shazeer 2020, arXiv 2002.05202)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        x = constrain(x, "mlp_rows", None, None)
        gated = ACTIVATIONS[c.activation](Linear(c.d_ff, name="gate")(x)) * Linear(c.d_ff, name="up")(x)
        gated = constrain(gated, "mlp_rows", None, "features")
        return Linear(c.d_model, init_scale=0.5 / c.num_layers, name="down")(gated)
