"""Rotary embedding, and the frequencies of each layer, scaled or not.

Su et al. 2021, arXiv 2104.09864; half rotation, as Llama checkpoints have it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.sharding.mesh import platform


def rotation(positions: jax.Array, frequencies: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine f32[B, L, 1, H/2] of `positions` i32[B, L] times `frequencies` f32[H/2], radians per token."""
    angle = positions[..., None].astype(jnp.float32) * frequencies[None, None, :]
    turned = jnp.cos(angle), jnp.sin(angle)
    if platform() == "cpu" and positions.shape[1] > 1:
        # XLA's CPU back end would compute them anew for every head in every loop that reads them. It holds what comes
        # out of a product, and a product with the identity changes nothing.
        identity = jnp.eye(frequencies.shape[0], dtype=jnp.float32)
        turned = tuple(jnp.matmul(x, identity, precision=jax.lax.Precision.HIGHEST) for x in turned)
    return turned[0][:, :, None, :], turned[1][:, :, None, :]


def rope(x: jax.Array, turned: tuple[jax.Array, jax.Array], scale: float = 1.0) -> jax.Array:
    """`x` f[B, L, N, H] turned by a `rotation`; `scale` is taken into it because here it costs no rounding."""
    cos, sin = turned
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return (rotated * scale if scale != 1.0 else rotated).astype(x.dtype)


def layer_frequencies(config: ModelConfig) -> np.ndarray:
    """The frequencies of every layer, f32[layers, H/2].

    Where there is a local base, layers with a window have it, and the scaling is the other layers' alone (Gemma 3).
    """
    scaled = scale(base_frequencies(config.rope_theta, config.head_dim), config)
    if not config.local_rope_theta:
        return np.tile(scaled, (config.num_layers, 1))
    local = base_frequencies(config.local_rope_theta, config.head_dim)
    windows = config.layer_windows or (0,) * config.num_layers
    return np.stack([local if window else scaled for window in windows])


def base_frequencies(theta: float, head_dim: int) -> np.ndarray:
    """theta^(-2i/H), f32[H/2], in the float32 steps in which transformers takes them."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.float32(1.0) / np.float32(theta) ** exponents


def scale(frequencies: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The frequencies f32[H/2] slowed down for sequences longer than those first trained on.

    `linear`: all by the factor (position interpolation, arXiv 2306.15595). `llama3` (arXiv 2407.21783): the slow ones
    by the factor, the fast ones not at all, and between them a blend that is linear in turns per original length.
    """
    slowed = frequencies / np.float32(config.rope_factor)
    if config.rope_scaling == "linear":
        return slowed
    if config.rope_scaling == "llama3":
        low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
        turns = config.rope_original_length * frequencies / np.float32(2 * np.pi)  # in the original length
        kept = np.clip((turns - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
        return ((1 - kept) * slowed + kept * frequencies).astype(np.float32)
    return frequencies
