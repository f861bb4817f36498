"""The decoder, in flax.linen, and the plain functions through which everything else uses it.

RMSNorm, rotary embedding (half rotation, as Llama checkpoints have it), grouped-query attention and a
gated MLP; what else a family of models has is switched on by its `ModelConfig`. Outside this folder a
model is a nested dict of arrays and that config.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.models import attention
from icegrt_jax.models.cache import of_layer, write
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.layers import MLP, Embed, Linear, norm, softcap
from icegrt_jax.models.precision import float32_products
from icegrt_jax.models.rope import layer_frequencies, rope, rotation
from icegrt_jax.sharding.constrain import constrain

MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite


def within_window(attend: jax.Array, window: jax.Array | int, positions: jax.Array, of_keys: jax.Array) -> jax.Array:
    """`attend` bool[B, L, S] narrowed to the last `window` tokens up to each query; 0 leaves it as it is.

    Args:
      positions: i32[B, L] of the queries in their sequences.
      of_keys: i32[B, S] of the keys.
    """
    distance = positions[:, :, None] - of_keys[:, None, :]
    return attend & ((distance < window) | (jnp.asarray(window) == 0))


class Attention(nn.Module):
    """Grouped-query attention; with a cache, keys and values of earlier tokens are read from it.

    `attend` is bool[B, L, S], or `attention.Seen` for a fused kernel over whole rows.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x, constants, positions, attend, cache, index):
        c = self.config
        batch, length, _ = x.shape
        groups = c.num_heads // c.num_kv_heads

        def heads(name, count):
            projected = Linear(count * c.head_dim, use_bias=c.qkv_bias, name=name)(x)
            # Heads that do not divide over the mesh stay whole, where XLA would cut through them.
            return constrain(projected.reshape(batch, length, count, c.head_dim), "rows", None, "heads", None)

        q, k, v = heads("q", c.num_heads), heads("k", c.num_kv_heads), heads("v", c.num_kv_heads)
        if c.qk_norm:
            q, k = norm(c, "q_norm")(q), norm(c, "k_norm")(k)
        scale = (c.query_pre_attn_scalar or c.head_dim) ** -0.5
        fused = isinstance(attend, attention.Seen)
        turned = rotation(positions, constants["frequencies"])
        q, k = rope(q, turned, scale if fused else 1.0), rope(k, turned)
        if fused:
            out = attention.attend_fused(q, k, v, attend, c, constants["window"])
        k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)  # [B, K, L, H]
        of_keys = positions
        if cache is not None:
            cache = write(cache, k, v, positions, index, constants.get("layer"))
            own = of_layer(cache, constants.get("layer"))
            k, v, of_keys = own["k"].astype(q.dtype), own["v"].astype(q.dtype), own.get("positions")
        if not fused:
            # [B, K, G·L, H]: the query heads that share keys become rows of one matrix product.
            q = q.reshape(batch, length, c.num_kv_heads, groups, c.head_dim)
            q = q.transpose(0, 2, 3, 1, 4).reshape(batch, c.num_kv_heads, groups * length, c.head_dim)
            precision = float32_products(q)
            scores = jnp.einsum("bkqh,bksh->bkqs", q, k, preferred_element_type=jnp.float32, precision=precision)
            if cache is not None and "k_scale" in own:
                scores *= own["k_scale"][:, :, None]
            scores = softcap(scores * scale, c.attn_softcap)
            if c.layer_windows:
                attend = within_window(attend, constants["window"], positions, of_keys)
            attend = jnp.tile(attend, (1, groups, 1))[:, None]  # [B, 1, G·L, S]
            weights = jax.nn.softmax(jnp.where(attend, scores, MASKED), axis=-1)
            if cache is not None and "v_scale" in own:
                weights *= own["v_scale"][:, :, None]
            out = jnp.einsum("bkqs,bksh->bkqh", weights.astype(v.dtype), v, precision=precision)
            out = out.reshape(batch, c.num_kv_heads, groups, length, c.head_dim).transpose(0, 3, 1, 2, 4)
        out = out.reshape(batch, length, c.num_heads * c.head_dim)
        return Linear(c.d_model, init_scale=0.5 / c.num_layers, name="o")(out), cache


class Block(nn.Module):
    """One layer. Called as a scan body: the carry is the stream and the cache, scanned are the constants.

    The cache of scanned layers is carried whole and written where it lies: as a scanned value it would be copied.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, carry, constants, positions, attend, index):
        c, (x, cache) = self.config, carry
        added, cache = Attention(c, name="attn")(norm(c, "attn_norm")(x), constants, positions, attend, cache, index)
        x = constrain(x + (norm(c, "attn_post_norm")(added) if c.post_norms else added), "rows", None, None)
        added = MLP(c, name="mlp")(norm(c, "mlp_norm")(x))
        x = constrain(x + (norm(c, "mlp_post_norm")(added) if c.post_norms else added), "rows", None, None)
        return (x, cache), None


def layer_constants(config: ModelConfig) -> dict:
    """What differs from layer to layer without being learned: frequencies f32[layers, H/2] and window i32[layers].

    Of stacked layers also `layer` i32[layers], the layer's place in the stack.
    """
    windows = config.layer_windows or (0,) * config.num_layers
    constants = {"frequencies": layer_frequencies(config), "window": np.asarray(windows, np.int32)}
    return {**constants, "layer": np.arange(config.num_layers, dtype=np.int32)} if config.scan_layers else constants


def rematerialised(config: ModelConfig, *, prevent_cse: bool) -> type[Block]:
    """`Block`, whose backward pass computes again what `config.remat` says."""
    if config.remat == "none":
        return Block
    kept = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}[config.remat]
    return nn.remat(Block, policy=kept, prevent_cse=prevent_cse)


class Layers(nn.Module):
    """The blocks one after another, each with its own subtree `layers/0`, `layers/1`, …"""

    config: ModelConfig

    @nn.compact
    def __call__(self, carry, constants, positions, attend, index):
        block = rematerialised(self.config, prevent_cse=True)
        (x, cache), new_cache = carry, {}
        for i in range(self.config.num_layers):
            name, own = str(i), {key: value[i] for key, value in constants.items()}
            layer = (x, None if cache is None else cache[name])
            (x, new_cache[name]), _ = block(self.config, name=name)(layer, own, positions, attend, index)
        return (x, None if cache is None else new_cache), None


def scanned_layers(config: ModelConfig, name: str) -> nn.Module:
    """The same blocks as one scan over parameters and constants stacked on a leading axis."""
    block = rematerialised(config, prevent_cse=False)
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
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
        x = constrain(embed(tokens), "rows", None, None)
        if c.scale_embeddings:
            x *= jnp.asarray(c.d_model**0.5, jnp.float32).astype(x.dtype)  # rounded first, as transformers does
        (x, cache), _ = layers((x, cache), layer_constants(c), positions, attend, index)
        return norm(c, "final_norm")(x), cache


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
    length, way = tokens.shape[1], attention.choose(config, tokens.shape[1])
    positions = token_positions(mask) if positions is None else positions
    read = lambda *args: Transformer(config).apply({"params": params}, *args)[0]
    if way == "cudnn" and segment_ids is None:
        # Rows without padding on the left need no mask but causality, which the kernel need not read from memory.
        there, back = attention.to_the_left(mask)
        moved = (jnp.take_along_axis(x, there, axis=1) for x in (tokens, positions))
        hidden = read(*moved, attention.Seen(way, None))
        return jnp.take_along_axis(hidden, back[..., None], axis=1)
    if way != "plain":
        segments = mask if segment_ids is None else jnp.where(mask, segment_ids, 0)
        return read(tokens, positions, attention.Seen(way, segments.astype(jnp.int32)))
    attend = jnp.tril(jnp.ones((length, length), jnp.bool_))[None] & mask[:, None, :]  # [B, L, L]
    if segment_ids is not None:
        attend &= segment_ids[:, :, None] == segment_ids[:, None, :]
    return read(tokens, positions, attend)


def tree_hidden(params: dict, config: ModelConfig, tokens: jax.Array, positions: jax.Array, ends: jax.Array):
    """Last hidden states f[B, L, D] of rows that hold trees of tokens, depth first; what follows one text shares it.

    Args:
      tokens: i32[B, L].
      positions: i32[B, L], of each token in its own sequence, which is its path from the root.
      ends: i32[B, L], the place behind the last token that continues it.
    """
    places = jnp.arange(tokens.shape[1])
    attend = places[None, None, :] <= places[None, :, None]  # [1, L, L]
    attend = attend & (places[None, :, None] < ends[:, None, :])  # [B, L, L]
    return Transformer(config).apply({"params": params}, tokens, positions, attend)[0]


def prefill(params: dict, config: ModelConfig, tokens: jax.Array, mask: jax.Array, cache: dict):
    """Hidden states f[B, P, D] of left-padded prompts, and the cache with slots 0..P-1 filled."""
    length, slots = tokens.shape[1], jax.tree.leaves(cache)[0].shape[-2]
    way = attention.choose(config, length)
    if way == "plain":
        causal = jnp.arange(slots)[None, :] <= jnp.arange(length)[:, None]  # [P, S]
        seen = jnp.pad(mask, ((0, 0), (0, slots - length)))
        attend = causal[None] & seen[:, None, :]
    else:
        attend = attention.Seen(way, mask.astype(jnp.int32))
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
