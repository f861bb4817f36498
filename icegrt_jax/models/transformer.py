"""The decoder, in flax.linen, and the plain functions through which everything else uses it.

RMSNorm, rotary embedding (half rotation, as Llama checkpoints have it), grouped-query attention and
SwiGLU. Outside this folder a model is a nested dict of arrays and a `ModelConfig`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from icegrt_jax.models.config import ModelConfig

MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite


class RMSNorm(nn.Module):
    """x / rms(x) * scale, computed in float32 (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4)."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        return (normed * jnp.expand_dims(scale.astype(jnp.float32), range(x.ndim - 1))).astype(x.dtype)


class Linear(nn.Module):
    """x @ kernel with kernel [in, out] and no bias, in the dtype of x."""

    features: int
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        out = x @ kernel.astype(x.dtype)
        if self.has_variable("params", "kernel_scale"):  # int8, see `quantize.py`
            scale = self.get_variable("params", "kernel_scale")
            out = out * jnp.expand_dims(scale.astype(out.dtype), range(out.ndim - 1))
        if self.has_variable("params", "lora_a"):  # its scale is in lora_b, see `lora.py`
            a, b = (self.get_variable("params", name).astype(x.dtype) for name in ("lora_a", "lora_b"))
            out = out + (x @ a) @ b
        return out


class Embed(nn.Module):
    """Rows of the embedding, in the compute dtype."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        init = nn.initializers.normal(c.init_std)
        table = self.param("embedding", init, (c.vocab_size, c.d_model), jnp.float32)
        rows = jnp.take(table, tokens, axis=0).astype(jnp.dtype(c.dtype))
        if self.has_variable("params", "embedding_scale"):
            scale = jnp.take(self.get_variable("params", "embedding_scale"), tokens, axis=0)
            rows = rows * scale[..., None].astype(rows.dtype)
        return rows


def rope(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary embedding of `x` f[B, L, N, H] at `positions` i32[B, L] (arXiv 2104.09864, half rotation)."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None].astype(jnp.float32) * frequency[None, None, :]  # [B, L, H/2]
    cos, sin = jnp.cos(angle)[:, :, None, :], jnp.sin(angle)[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention; with a cache, keys and values of earlier tokens are read from it."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x, positions, attend, cache, index):
        c = self.config
        batch, length, _ = x.shape
        groups = c.num_heads // c.num_kv_heads
        q = Linear(c.num_heads * c.head_dim, name="q")(x).reshape(batch, length, c.num_heads, c.head_dim)
        k = Linear(c.num_kv_heads * c.head_dim, name="k")(x).reshape(batch, length, c.num_kv_heads, c.head_dim)
        v = Linear(c.num_kv_heads * c.head_dim, name="v")(x).reshape(batch, length, c.num_kv_heads, c.head_dim)
        # [B, K, G·L, H]: the query heads that share keys become rows of one matrix product.
        q = rope(q, positions, c.rope_theta).reshape(batch, length, c.num_kv_heads, groups, c.head_dim)
        q = q.transpose(0, 2, 3, 1, 4).reshape(batch, c.num_kv_heads, groups * length, c.head_dim)
        k = rope(k, positions, c.rope_theta).transpose(0, 2, 1, 3)  # [B, K, L, H]
        v = v.transpose(0, 2, 1, 3)
        if cache is not None:
            k = jax.lax.dynamic_update_slice_in_dim(cache["k"], k.astype(cache["k"].dtype), index, axis=2)
            v = jax.lax.dynamic_update_slice_in_dim(cache["v"], v.astype(cache["v"].dtype), index, axis=2)
            cache = {"k": k, "v": v}
        scores = jnp.einsum("bkqh,bksh->bkqs", q, k, preferred_element_type=jnp.float32) * c.head_dim**-0.5
        attend = jnp.tile(attend, (1, groups, 1))[:, None]  # [B, 1, G·L, S]
        weights = jax.nn.softmax(jnp.where(attend, scores, MASKED), axis=-1).astype(v.dtype)
        out = jnp.einsum("bkqs,bksh->bkqh", weights, v)
        out = out.reshape(batch, c.num_kv_heads, groups, length, c.head_dim).transpose(0, 3, 1, 2, 4)
        out = out.reshape(batch, length, c.num_heads * c.head_dim)
        return Linear(c.d_model, init_scale=0.5 / c.num_layers, name="o")(out), cache


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        gated = jax.nn.silu(Linear(c.d_ff, name="gate")(x)) * Linear(c.d_ff, name="up")(x)
        return Linear(c.d_model, init_scale=0.5 / c.num_layers, name="down")(gated)


class Block(nn.Module):
    """One pre-norm layer. Called as a scan body: the carry is the stream, the scanned value the cache."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x, cache, positions, attend, index):
        c = self.config
        attended, cache = Attention(c, name="attn")(
            RMSNorm(c.norm_eps, name="attn_norm")(x), positions, attend, cache, index
        )
        x = x + attended
        x = x + MLP(c, name="mlp")(RMSNorm(c.norm_eps, name="mlp_norm")(x))
        return x, cache


class Layers(nn.Module):
    """The blocks one after another, each with its own subtree `layers/0`, `layers/1`, …"""

    config: ModelConfig

    @nn.compact
    def __call__(self, x, cache, positions, attend, index):
        block = nn.remat(Block) if self.config.remat else Block
        new_cache = {}
        for i in map(str, range(self.config.num_layers)):
            layer_cache = None if cache is None else cache[i]
            x, new_cache[i] = block(self.config, name=i)(x, layer_cache, positions, attend, index)
        return x, None if cache is None else new_cache


def scanned_layers(config: ModelConfig, name: str) -> nn.Module:
    """The same blocks as one scan over parameters (and cache) stacked on a leading axis."""
    block = nn.remat(Block, prevent_cse=False) if config.remat else Block
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
        out_axes=0,
        length=config.num_layers,
    )(config, name=name)


class Transformer(nn.Module):
    """Tokens to the normalised last hidden states; logits and scalars are `heads.py`'s."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens, positions, attend, cache=None, index=0):
        c = self.config
        embed = Embed(c, name="embed")
        layers = scanned_layers(c, "layers") if c.scan_layers else Layers(c, name="layers")
        x, cache = layers(embed(tokens), cache, positions, attend, index)
        return RMSNorm(c.norm_eps, name="final_norm")(x), cache


def token_positions(mask: jax.Array) -> jax.Array:
    """Position of each token among the real ones, i32[..., L]: padding before a token does not count."""
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=-1) - 1, 0)


def hidden_states(
    params: dict,
    config: ModelConfig,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
) -> jax.Array:
    """Last hidden states of whole sequences, f[B, L, D] in the compute dtype.

    Args:
      params: the parameter tree of one role.
      config: its shape.
      tokens: i32[B, L], padded on either side.
      mask: bool[B, L], True at real tokens.
      segment_ids: i32[B, L]; tokens attend within their segment only (packed rows).
      positions: i32[B, L]; by default counted from the mask, needed with packed rows.
    """
    length = tokens.shape[1]
    attend = jnp.tril(jnp.ones((length, length), jnp.bool_))[None] & mask[:, None, :]  # [B, L, L]
    if segment_ids is not None:
        attend &= segment_ids[:, :, None] == segment_ids[:, None, :]
    positions = token_positions(mask) if positions is None else positions
    return Transformer(config).apply({"params": params}, tokens, positions, attend)[0]


def empty_cache(config: ModelConfig, batch: int, length: int) -> dict:
    """Keys and values for `length` slots: f[B, K, S, H] per layer, with a leading axis when scanned."""
    shape = (batch, config.num_kv_heads, length, config.head_dim)
    dtype = jnp.dtype(config.dtype)
    if config.scan_layers:
        shape = (config.num_layers, *shape)
        return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}
    return {str(i): {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)} for i in range(config.num_layers)}


def prefill(params: dict, config: ModelConfig, tokens: jax.Array, mask: jax.Array, cache: dict):
    """Hidden states f[B, P, D] of left-padded prompts, and the cache with slots 0..P-1 filled."""
    length, slots = tokens.shape[1], jax.tree.leaves(cache)[0].shape[-2]
    causal = jnp.arange(slots)[None, :] <= jnp.arange(length)[:, None]  # [P, S]
    seen = jnp.pad(mask, ((0, 0), (0, slots - length)))
    attend = causal[None] & seen[:, None, :]
    return Transformer(config).apply({"params": params}, tokens, token_positions(mask), attend, cache, 0)


def decode_step(params: dict, config: ModelConfig, token, position, slot_mask, cache: dict, index):
    """One more token for every row.

    Args:
      token: i32[B], the token to read; it goes to slot `index`.
      position: i32[B], its position in its own sequence.
      slot_mask: bool[B, S], True at slots that hold real tokens, slot `index` included.
      cache: from `prefill` or an earlier step.
      index: i32[], the slot written, the same for all rows.

    Returns:
      Hidden states f[B, D] and the cache.
    """
    hidden, cache = Transformer(config).apply(
        {"params": params}, token[:, None], position[:, None], slot_mask[:, None, :], cache, index
    )
    return hidden[:, 0], cache
