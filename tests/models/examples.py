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
# Every switch on that any family has, and layers of both kinds.
EVERYTHING = dataclasses.replace(
    CONFIG,
    qkv_bias=True,
    qk_norm=True,
    activation="gelu_tanh",
    zero_centred_norm=True,
    post_norms=True,
    scale_embeddings=True,
    attn_softcap=2.0,
    query_pre_attn_scalar=5,
    local_rope_theta=50.0,
    layer_windows=(3, 0),
)


def make_params(config: ModelConfig = CONFIG, *, seed: int = 0, scalar_head: bool = False) -> dict:
    """Parameters of a size that lets every part matter, norms and biases included."""
    shapes = jax.eval_shape(lambda key: init_params(key, config, scalar_head=scalar_head), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        centre = 1.0 if path[-1].key == "scale" and not config.zero_centred_norm else 0.0
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
    x = w["embed"]["embedding"][np.asarray(tokens)] * (np.sqrt(c.d_model) if c.scale_embeddings else 1.0)
    for i in range(c.num_layers):
        layer, window = w["layers"][str(i)], (c.layer_windows or (0,) * c.num_layers)[i]
        theta = c.local_rope_theta if window and c.local_rope_theta else c.rope_theta
        h = _norm(x, layer["attn_norm"], c)
        q, k, v = (
            (h @ layer["attn"][name]["kernel"] + layer["attn"][name].get("bias", 0.0)).reshape(length, -1, c.head_dim)
            for name in "qkv"
        )
        if c.qk_norm:
            q, k = _norm(q, layer["attn"]["q_norm"], c), _norm(k, layer["attn"]["k_norm"], c)
        q, k = _rotate(q, theta), _rotate(k, theta)
        out = np.zeros((length, c.num_heads, c.head_dim))
        for n in range(c.num_heads):
            group = n // (c.num_heads // c.num_kv_heads)
            for t in range(length):
                seen = slice(max(0, t + 1 - window) if window else 0, t + 1)
                scores = k[seen, group] @ q[t, n] / np.sqrt(c.query_pre_attn_scalar or c.head_dim)
                scores = c.attn_softcap * np.tanh(scores / c.attn_softcap) if c.attn_softcap else scores
                weights = np.exp(scores - scores.max())
                out[t, n] = weights / weights.sum() @ v[seen, group]
        added = out.reshape(length, -1) @ layer["attn"]["o"]["kernel"]
        x = x + (_norm(added, layer["attn_post_norm"], c) if c.post_norms else added)
        h = _norm(x, layer["mlp_norm"], c)
        gate = _activation(h @ layer["mlp"]["gate"]["kernel"], c.activation)
        added = (gate * (h @ layer["mlp"]["up"]["kernel"])) @ layer["mlp"]["down"]["kernel"]
        x = x + (_norm(added, layer["mlp_post_norm"], c) if c.post_norms else added)
    return _norm(x, w["final_norm"], c)


def _norm(x: np.ndarray, weights: dict, config: ModelConfig) -> np.ndarray:
    scale = weights["scale"] + (1.0 if config.zero_centred_norm else 0.0)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * scale


def _activation(x: np.ndarray, name: str) -> np.ndarray:
    if name == "silu":
        return x / (1 + np.exp(-x))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _rotate(x: np.ndarray, theta: float) -> np.ndarray:
    """Each pair (x[j], x[j + H/2]) of [L, heads, H] as a complex number, turned by position * frequency j."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    angles = np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half)
    turned = pairs * np.exp(1j * angles)[:, None, :]
    return np.concatenate([turned.real, turned.imag], axis=-1)
