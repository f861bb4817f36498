"""One token from the logits: temperature, top-k, top-p, min-p, and the draw itself."""

import dataclasses
import math
import numbers
from typing import get_args

import jax
import jax.numpy as jnp

from icegrt_jax.config.choices import CacheDtype, check_choice
from icegrt_jax.config.options import DrawOptions
from icegrt_jax.errors import UserError
from icegrt_jax.models.heads import pick_logprobs

EXCLUDED = -1e30  # logit of a token that top-k, top-p or min-p leaves out


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig(DrawOptions):
    """How responses are drawn. Hashable: a static argument of the compiled program.

    Attributes: those of `DrawOptions`, where each is explained (temperature 0 takes the likeliest token), and
      max_new_tokens: T, tokens in a response at most.
      eos_ids: any of these ends a response; it is kept as the last token.
      pad_id: fills the rest.
    """

    max_new_tokens: int
    eos_ids: tuple[int, ...] = ()
    pad_id: int = 0

    def __post_init__(self):
        for name in ("max_new_tokens", "top_k"):
            if not isinstance(getattr(self, name), numbers.Integral):
                raise UserError(f"{name}={getattr(self, name)!r}; expected a whole number.")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens}; expected 1 or more.")
        check_choice("cache_dtype", self.cache_dtype, get_args(CacheDtype))
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature={self.temperature}; expected 0 (greedy) or more.")
        if not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1 or self.top_k < 0:
            raise UserError(
                f"top_k={self.top_k}, top_p={self.top_p}, min_p={self.min_p}; "
                "expected top_k >= 0, 0 < top_p <= 1 and 0 <= min_p <= 1."
            )


def restrict(logits: jax.Array, config: SamplerConfig) -> jax.Array:
    """Logits f32[B, V] with the tokens that top-k, top-p and min-p leave out set to EXCLUDED."""
    if config.top_k and config.top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, config.top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest, EXCLUDED, logits)
    if config.top_p < 1.0:
        # A token stays while those likelier than it fall short of top_p (arXiv 1904.09751, section 3.1).
        ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        probs = jax.nn.softmax(ordered, axis=-1)
        kept = jnp.cumsum(probs, axis=-1) - probs < config.top_p
        smallest = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < smallest, EXCLUDED, logits)
    if config.min_p > 0.0:
        floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(config.min_p)
        logits = jnp.where(logits < floor, EXCLUDED, logits)
    return logits


def block_size(vocab_size: int) -> int:
    """Tokens in a block of the vocabulary: the divisor nearest to its square root, or near that where none is."""
    root = math.isqrt(vocab_size)
    divisors = [size for size in range(max(1, root // 8), 8 * root + 1) if vocab_size % size == 0]
    return min(divisors, key=lambda size: abs(math.log(size / root)), default=root)


def categorical(keys: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A token i32[B] from softmax(`logits` f32[B, V]), row by row, and the logarithm f32[B] of the softmax's sum.

    Two draws by the Gumbel-max trick (Maddison et al. 2014, arXiv 1411.0030, section 2): a block of about sqrt(V)
    tokens by the blocks' probabilities, then a token in it. That is the same distribution as one draw over all,
    with noise for 2 sqrt(V) instead of V; making it took longer than a step's matrix products on a CPU.
    """
    rows, vocab_size = logits.shape
    size = block_size(vocab_size)
    count = -(-vocab_size // size)
    padded = jnp.pad(logits, ((0, 0), (0, count * size - vocab_size)), constant_values=-jnp.inf)
    blocks = padded.reshape(rows, count, size)
    block_log_z = jax.nn.logsumexp(blocks, axis=-1)  # [B, count]
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (count + size,), jnp.float32))(keys)
    block = jnp.argmax(block_log_z + noise[:, :count], axis=-1)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    token = jnp.argmax(inside + noise[:, count:], axis=-1)
    return (block * size + token).astype(jnp.int32), jax.nn.logsumexp(block_log_z, axis=-1)


def draw(
    keys: jax.Array, logits: jax.Array, config: SamplerConfig, temperature: jax.Array | float | None = None
) -> tuple[jax.Array, jax.Array]:
    """The next token i32[B] of each row and its log-probability f32[B].

    Args:
      keys: key[B], used for this token only.
      logits: f32[B, V].
      config, temperature: as given to `sample_responses`.
    """
    if config.temperature == 0.0:
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return token, pick_logprobs(logits, token)
    logits = logits / (config.temperature if temperature is None else temperature)
    token, log_z = categorical(keys, restrict(logits, config))
    if config.top_k or config.top_p < 1.0 or config.min_p:  # log-probs are of the full softmax
        return token, pick_logprobs(logits, token)
    return token, jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0] - log_z
