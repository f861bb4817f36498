"""Splash attention, JAX's Pallas kernel for TPUs, on the rows of this decoder.

https://github.com/jax-ml/jax/tree/main/jax/experimental/pallas/ops/tpu/splash_attention. It never holds the scores of a
whole row, and skips the blocks that causality or a window leaves empty.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as kernels

LANES = 128  # the kernel's blocks, and the widths of heads, are multiples of it
BLOCK = 512  # tokens of a block, forward and backward, where the row is that long


def row_length(length: int) -> int:
    """The length that a row of `length` tokens is padded to: whole blocks, without doubling a short row."""
    step = LANES if length <= BLOCK else BLOCK // 2
    return -(-length // step) * step


def block_sizes(length: int) -> kernels.BlockSizes:
    """Blocks for rows of a padded `length`."""
    size = next(size for size in (BLOCK, BLOCK // 2, length) if length % size == 0)
    return kernels.BlockSizes(
        block_q=size, block_kv=size, block_q_dkv=size, block_kv_dkv=size, block_q_dq=size, block_kv_dq=size
    )


def splash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    *,
    window: int = 0,
    softcap: float = 0.0,
    interpret: bool = False,
) -> jax.Array:
    """What every token reads from the tokens of its segment up to itself, f[B, L, N, H].

    Args:
      q: f[B, L, N, H], already times the scale of the scores.
      k, v: f[B, L, K, H], K dividing N.
      segments: i32[B, L]; padding is a segment like others, so that no row of scores is empty.
      window: only the last so many tokens; 0: all.
      softcap: c of scores -> c tanh(scores / c); 0: off.
      interpret: run the kernel on any device, slowly.
    """
    length, heads, width = q.shape[1:]
    padded = row_length(length)
    longer = ((0, 0), (0, padded - length))
    wider = (0, -(-width // LANES) * LANES - width)
    q, k, v = (jnp.pad(x, (*longer, (0, 0), wider)).transpose(0, 2, 1, 3) for x in (q, k, v))  # [B, N, L, H]
    segments = jnp.pad(segments, longer)
    seen = kernels.LocalMask((padded, padded), (window - 1, 0), 0) if window else kernels.CausalMask((padded, padded))
    kernel = kernels.make_splash_mha_single_device(
        kernels.MultiHeadMask([seen] * heads),
        block_sizes=block_sizes(padded),
        attn_logits_soft_cap=softcap or None,
        interpret=interpret,
    )
    out = jax.vmap(kernel)(q, k, v, kernels.SegmentIds(q=segments, kv=segments))
    return out.transpose(0, 2, 1, 3)[:, :length, :, :width]
