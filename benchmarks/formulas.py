"""What a step must compute and read at least: floating-point operations and bytes of a Llama-shaped decoder.

A multiply and an add are two operations. Only matrix products count: x W of every linear layer, q k and weights v of
causal attention (each token with those before it and itself), and the vocabulary projection where its result is
needed. A backward pass costs twice the forward pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); nothing that
is recomputed counts. So the limits are what no implementation in that dtype can beat on that machine.
"""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Shape:
    """A decoder; the names are those of `icegrt_jax.models.config.ModelConfig`."""

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int

    @property
    def layer_weights(self) -> int:
        """Weights in the linear layers of all blocks."""
        attention = 2 * self.d_model * self.head_dim * (self.num_heads + self.num_kv_heads)
        return self.num_layers * (attention + 3 * self.d_model * self.d_ff)

    @property
    def head_weights(self) -> int:
        return self.vocab_size * self.d_model

    @property
    def cache_width(self) -> int:
        """Numbers that the cache holds for one token."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim


@dataclasses.dataclass(frozen=True)
class Machine:
    """flops: of matrix products per second. bandwidth: bytes read per second. Both measured, see `limits.py`."""

    flops: float
    bandwidth: float


Lengths = Sequence[tuple[int, int]]  # of each sequence: prompt tokens, response tokens


def forward_flops(shape: Shape, lengths: Sequence[int], logits: int) -> float:
    """One forward pass over whole sequences with the vocabulary projection at `logits` positions."""
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    linear = 2.0 * shape.layer_weights * sum(lengths)
    attention = 4.0 * shape.num_layers * shape.num_heads * shape.head_dim * pairs
    return linear + attention + 2.0 * shape.head_weights * logits


def train_flops(shape: Shape, lengths: Sequence[int], logits: int) -> float:
    """Forward and backward pass."""
    return 3.0 * forward_flops(shape, lengths, logits)


def sft_flops(shape: Shape, rows: int, length: int) -> float:
    """A supervised step on full rows; the last position predicts nothing."""
    return train_flops(shape, [length] * rows, rows * (length - 1))


def reward_flops(shape: Shape, rows: int, length: int) -> float:
    """A ranking step: no vocabulary projection."""
    return train_flops(shape, [length] * rows, 0)


def decode_bytes(shape: Shape, context: int, weight_bytes: int = 4, cache_bytes: int = 4) -> float:
    """Read by one decode step: all weights once whatever the batch, and the cache of `context` tokens of all rows."""
    return weight_bytes * (shape.layer_weights + shape.head_weights) + cache_bytes * shape.cache_width * context


def generation_seconds(
    shape: Shape, machine: Machine, lengths: Lengths, weight_bytes: int = 4, cache_bytes: int = 4
) -> float:
    """Prefill, then one step per token, each bound by what takes longer: operations or reading weights and cache.

    The first token comes from the prefill, and the last one is never read.
    """
    rows = len(lengths)
    prefill = forward_flops(shape, [prompt for prompt, _ in lengths], rows)
    weights = weight_bytes * (shape.layer_weights + shape.head_weights)
    seconds = max(prefill / machine.flops, weights / machine.bandwidth)
    for t in range(1, max(new for _, new in lengths)):
        contexts = [prompt + t for prompt, new in lengths if new > t]
        linear = 2.0 * (shape.layer_weights + shape.head_weights) * len(contexts)
        attention = 4.0 * shape.num_layers * shape.num_heads * shape.head_dim * sum(contexts)
        read = decode_bytes(shape, sum(contexts), weight_bytes, cache_bytes)
        seconds += max((linear + attention) / machine.flops, read / machine.bandwidth)
    return seconds


def scoring_flops(shape: Shape, lengths: Lengths) -> float:
    """Reference log-probs (logits at response positions only), values, and scores of the reward model."""
    read = [prompt + new - 1 for prompt, new in lengths]  # the last token predicts nothing
    reference = forward_flops(shape, read, sum(new for _, new in lengths))
    values = forward_flops(shape, read, 0)
    return reference + values + forward_flops(shape, [prompt + new for prompt, new in lengths], 0)


def learning_flops(shape: Shape, lengths: Lengths, epochs: int) -> float:
    """All epochs of actor (logits at response positions) and critic."""
    read = [prompt + new - 1 for prompt, new in lengths]
    actor = train_flops(shape, read, sum(new for _, new in lengths))
    return epochs * (actor + train_flops(shape, read, 0))


def ppo_seconds(
    shape: Shape, machine: Machine, lengths: Lengths, epochs: int, weight_bytes: int = 4
) -> dict[str, float]:
    """The least time of each phase of a PPO iteration with four models of the same shape."""
    return {
        "rollout": generation_seconds(shape, machine, lengths, weight_bytes),
        "score": scoring_flops(shape, lengths) / machine.flops,
        "learn": learning_flops(shape, lengths, epochs) / machine.flops,
    }
