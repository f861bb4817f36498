"""What is read off the hidden states: logits, per-token log-probabilities in chunks, scalars."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from icegrt_jax.models.chunks import over_chunks, sum_over_chunks
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.layers import softcap
from icegrt_jax.models.precision import float32_products
from icegrt_jax.models.transformer import Transformer
from icegrt_jax.rl import exact_kl
from icegrt_jax.sharding.constrain import constrain, gathered, splits_over_fsdp, with_vocabulary
from icegrt_jax.sharding.mesh import platform


def init_params(key: jax.Array, config: ModelConfig, *, scalar_head: bool = False) -> dict:
    """A new float32 parameter tree: a language model, or a scalar model (no `lm_head`, a `head`)."""
    trunk_key, head_key = jax.random.split(key)
    dummy = jnp.zeros((1, 2), jnp.int32)
    params = Transformer(config).init(trunk_key, dummy, dummy, jnp.ones((1, 2, 2), jnp.bool_))["params"]
    if scalar_head:
        return with_scalar_head(head_key, params, config)
    if not config.tie_embeddings:
        kernel = jax.random.normal(head_key, (config.d_model, config.vocab_size), jnp.float32) * config.d_model**-0.5
        params["lm_head"] = {"kernel": kernel}
    return params


def with_scalar_head(key: jax.Array, params: dict, config: ModelConfig) -> dict:
    """The trunk of `params` with a new scalar head."""
    return {**trunk(params), "head": new_head(key, config)}


def trunk(params: dict) -> dict:
    """A parameter tree without what reads its hidden states."""
    return {name: params[name] for name in ("embed", "layers", "final_norm")}


def new_head(key: jax.Array, config: ModelConfig) -> dict:
    """A scalar head, std 1/sqrt(D + 1) (arXiv 2009.01325, appendix B.1)."""
    kernel = jax.random.normal(key, (config.d_model, 1), jnp.float32) * (config.d_model + 1) ** -0.5
    return {"kernel": kernel, "bias": jnp.zeros((1,), jnp.float32)}


def vocabulary(params: dict, config: ModelConfig) -> dict:
    """The part of the parameters that `unembed` reads."""
    name = "embed" if config.tie_embeddings else "lm_head"
    return {name: params[name]}


def unembed(params: dict, config: ModelConfig, hidden: jax.Array) -> jax.Array:
    """Logits f32[..., V] of hidden states f[..., D]."""
    if config.tie_embeddings:
        module, equation, table = params["embed"], "...d,vd->...v", "embedding"
    else:
        module, equation, table = params["lm_head"], "...d,dv->...v", "kernel"
    weights = module[table].astype(hidden.dtype)
    between = (None,) * (hidden.ndim - 2)
    rows, split = ("vocab_rows", "vocab") if splits_over_fsdp(config.vocab_size, "vocab") else ("mlp_rows", "features")
    hidden = gathered(hidden, (rows, *between, None), ("rows", *between, None))
    logits = jnp.einsum(
        equation, hidden, weights, preferred_element_type=jnp.float32, precision=float32_products(hidden, weights)
    )
    logits = constrain(logits, rows, *between, split)
    scale = module.get(f"{table}_scale")  # of int8 weights, see `quantize.py`
    if scale is not None:
        logits *= jnp.expand_dims(scale, range(logits.ndim - 1))
    return softcap(logits, config.final_softcap)


def scalars(params: dict, hidden: jax.Array) -> jax.Array:
    """Value or score f32[...] of hidden states f[..., D]; the head is computed in float32."""
    head = params["head"]
    hidden, kernel = hidden.astype(jnp.float32), head["kernel"].astype(jnp.float32)
    projected = jnp.matmul(hidden, kernel, precision=float32_products(hidden, kernel))
    return projected[..., 0] + head["bias"].astype(jnp.float32)[0]


@jax.custom_vjp
def pick_logprobs(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Log-probability f32[...] of `targets` i32[...] under `logits` f32[..., V]."""
    return _pick_forward(logits, targets)[0]


def _pick_forward(logits, targets):
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return chosen - log_z, (logits, targets, log_z)


def _pick_backward(residuals, cotangent):
    # One pass over the logits; differentiating the gather would write another array of their size.
    logits, targets, log_z = residuals
    vocabulary = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    hit = (vocabulary == targets[..., None]).astype(logits.dtype)
    return cotangent[..., None] * (hit - jnp.exp(logits - log_z[..., None])), None


pick_logprobs.defvjp(_pick_forward, _pick_backward)


def entropy_of(logits: jax.Array) -> jax.Array:
    """Entropy in nats f32[...] of softmax(`logits` f32[..., V])."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    probs = jnp.exp(logits - log_z[..., None])
    return log_z - _sum_of_products(probs, logits)


def _sum_of_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """sum(a * b) over the last axis; on a CPU as a product, where XLA takes ten times as long for the sum."""
    if platform() == "cpu":
        return jnp.einsum("...v,...v->...", a, b, precision=float32_products(a, b))
    return jnp.sum(a * b, axis=-1)


def _read(logits: jax.Array, targets: jax.Array, *, entropy: bool = False) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target and entropy of its distribution, without a gradient unless `entropy`."""
    return pick_logprobs(logits, targets), entropy_of(logits if entropy else jax.lax.stop_gradient(logits))


def token_logprobs(
    params: dict,
    config: ModelConfig,
    hidden: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    *,
    most: int,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target and entropy of its distribution, without a [B, L, V] array.

    Args:
      params: of a language model.
      config: its shape.
      hidden: f[B, L, D], the states that predict the targets.
      targets: i32[B, L].
      mask: bool[B, L], the targets that count.
      most: True in a row of the mask at most.
      temperature: divides the logits, as it did when the targets were sampled.

    Returns:
      logprobs f32[B, L] and entropy f32[B, L] (no gradient through the latter), 0 where not mask.
    """

    def rows(weights, mask, *arrays):
        def chunk(hidden, targets):
            return _read(unembed(weights, config, hidden) / temperature, targets)

        return over_chunks(chunk, config.vocab_size, mask, *arrays, most=most)

    return with_vocabulary(rows, vocabulary(params, config), config.vocab_size, mask, hidden, targets)


def target_logprobs(
    params: dict, config: ModelConfig, hidden: jax.Array, targets: jax.Array, mask: jax.Array, *, most: int
) -> tuple[jax.Array, jax.Array]:
    """Of each of K targets behind a hidden state its log-probability, and whether it is the likeliest token.

    Args:
      params, config, most: as for `token_logprobs`.
      hidden: f[B, S, D].
      targets: i32[B, S, K].
      mask: bool[B, S], the states that count.

    Returns:
      f32[B, S, K] and bool[B, S, K], 0 and False where not mask.
    """

    def rows(weights, mask, *arrays):
        def chunk(hidden, targets):
            logits = unembed(weights, config, hidden)
            log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
            likeliest = jnp.argmax(logits, axis=-1).astype(targets.dtype)
            return jnp.take_along_axis(logits, targets, axis=-1) - log_z, targets == likeliest[..., None]

        return over_chunks(chunk, config.vocab_size, mask, *arrays, most=most)

    return with_vocabulary(rows, vocabulary(params, config), config.vocab_size, mask, hidden, targets)


def token_loss(
    loss_fn: Callable,
    params: dict,
    config: ModelConfig,
    hidden: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    *arrays: jax.Array,
    most: int,
    temperature: float = 1.0,
    reference: tuple[dict, jax.Array, float] | None = None,
    differentiate_entropy: bool = False,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A loss of log-probabilities that is a sum over tokens, and its metrics; each logit computed once.

    Args:
      loss_fn: `(logprobs, entropy, mask, *arrays) -> (loss, metrics)`, of f32[N, M], the mask and `arrays` [N, M] for
        some of the tokens: its share of both.
      params, config, hidden, targets, mask, most, temperature: as for `token_logprobs`.
      arrays: [B, L] each, held constant.
      reference: parameters and hidden states f[B, L, D], held constant, of another model of the same shape, and its
        temperature. The loss is then given `kl` as well, KL(model || reference) f32[N, M] of what each target was
        drawn from.
      differentiate_entropy: whether the loss depends on the entropy too.
    """
    weights = [vocabulary(params, config)]
    constant: tuple[jax.Array, ...] = ()
    if reference is not None:
        weights.append(jax.lax.stop_gradient(vocabulary(reference[0], config)))
        constant = (jax.lax.stop_gradient(reference[1]),)

    def chunk(weights, hidden, mask, targets, *arrays):
        logits = unembed(weights[0], config, hidden) / temperature
        more = {}
        if reference is not None:
            ref_hidden, arrays = arrays[0], arrays[1:]
            more = {"kl": exact_kl(logits, unembed(weights[1], config, ref_hidden) / reference[2])}
        return loss_fn(*_read(logits, targets, entropy=differentiate_entropy), mask, *arrays, **more)

    def share(weights, *arrays):  # of the rows at hand, f32[1] each
        summed = sum_over_chunks(chunk, config.vocab_size, weights, *arrays, most=most)
        return jax.tree.map(lambda x: x[None], summed)

    arrays = (mask, hidden, targets, *constant, *arrays)
    return jax.tree.map(jnp.sum, with_vocabulary(share, weights, config.vocab_size, *arrays))
