"""Tiny models and batches, and the decoder once more in float64 NumPy, one token at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params

# Grouped heads, and an inner width N * H that differs from D.
CONFIG = ModelConfig(
    vocab_size=50,
    d_model=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=40,
    rope_theta=500.0,
    norm_eps=1e-4,
    max_length=64,
)


def make_params(config: ModelConfig = CONFIG, *, seed: int = 0, scalar_head: bool = False) -> dict:
    """Parameters of a size that lets every part matter, norms and biases included."""
    shapes = jax.eval_shape(lambda key: init_params(key, config, scalar_head=scalar_head), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(centre, 0.2, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def stacked(config: ModelConfig, params: dict) -> tuple[ModelConfig, dict]:
    """The same model with scanned layers."""
    layers = [params["layers"][str(i)] for i in range(config.num_layers)]
    joined = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return dataclasses.replace(config, scan_layers=True), {**params, "layers": joined}


def make_tokens(batch: int, length: int, *, vocab_size: int = CONFIG.vocab_size, seed: int = 7) -> jax.Array:
    """Random tokens, i32[B, L]."""
    return jax.random.randint(jax.random.key(seed), (batch, length), 0, vocab_size, jnp.int32)


def reference_hidden(params: dict, config: ModelConfig, tokens) -> np.ndarray:
    """Last hidden states float64[L, D] of one sequence without padding."""
    c, w = config, jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    length = len(tokens)
    x = w["embed"]["embedding"][np.asarray(tokens)]
    for i in range(c.num_layers):
        layer = w["layers"][str(i)]
        h = _norm(x, layer["attn_norm"], c.norm_eps)
        q, k, v = ((h @ layer["attn"][name]["kernel"]).reshape(length, -1, c.head_dim) for name in "qkv")
        q, k = _rotate(q, c.rope_theta), _rotate(k, c.rope_theta)
        out = np.zeros((length, c.num_heads, c.head_dim))
        for n in range(c.num_heads):
            group = n // (c.num_heads // c.num_kv_heads)
            for t in range(length):
                scores = k[: t + 1, group] @ q[t, n] / np.sqrt(c.head_dim)
                weights = np.exp(scores - scores.max())
                out[t, n] = weights / weights.sum() @ v[: t + 1, group]
        x = x + out.reshape(length, -1) @ layer["attn"]["o"]["kernel"]
        h = _norm(x, layer["mlp_norm"], c.norm_eps)
        gate = h @ layer["mlp"]["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ layer["mlp"]["up"]["kernel"])) @ layer["mlp"]["down"]["kernel"]
    return _norm(x, w["final_norm"], c.norm_eps)


def _norm(x: np.ndarray, weights: dict, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weights["scale"]


def _rotate(x: np.ndarray, theta: float) -> np.ndarray:
    """Each pair (x[j], x[j + H/2]) of [L, heads, H] as a complex number, turned by position * frequency j."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    angles = np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half)
    turned = pairs * np.exp(1j * angles)[:, None, :]
    return np.concatenate([turned.real, turned.imag], axis=-1)
