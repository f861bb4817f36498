"""Log-likelihoods of continuations: rows of `forest`, a few compiled shapes, many at a time."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from icegrt_jax.evaluation.harness import forest
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import target_logprobs
from icegrt_jax.models.transformer import tree_hidden
from icegrt_jax.sharding.mesh import platform

BATCH_TOKENS = {"cpu": 1024}  # computed at a time
BATCH_TOKENS_ACCELERATOR = 16384
FEWEST_SLOTS = 16
# How much more a product of attention and its softmax cost than a product of the same size with a weight.
ATTENTION_FACTOR = 2.5


def batch_tokens() -> int:
    """Tokens that are computed at a time on this machine, where nothing else is asked for."""
    return BATCH_TOKENS.get(platform(), BATCH_TOKENS_ACCELERATOR)


def request(context: Sequence[int], continuation: Sequence[int], longest: int) -> forest.Request:
    """What is read to score a continuation; too much is cut on the left, as the `hf` backend of lm-eval does.

    Args:
      continuation: of at most `longest` tokens, the model's most.
    """
    assert context and 0 < len(continuation) <= longest, (len(context), len(continuation), longest)
    ids = (*context, *continuation)[-(longest + 1) :]
    return forest.Request(ids[:-1], tuple(continuation))


def pair_cost(config: ModelConfig) -> float:
    """What a token costs for each token of its row, where its products with the weights cost 1."""
    per_layer = 4 * config.num_heads * config.head_dim
    tables = config.vocab_size * config.d_model * (1 if config.tie_embeddings else 2)
    return ATTENTION_FACTOR * per_layer * config.num_layers / (2 * (config.num_params - tables))


def loglikelihoods(
    params: dict,
    config: ModelConfig,
    requests: Sequence[forest.Request],
    *,
    tokens: int = 0,
    place: Callable = lambda batch: batch,
    done: Callable[[int], object] = lambda count: None,
) -> list[tuple[float, bool]]:
    """Of each request the sum of its targets' log-probabilities, and whether each is the likeliest token.

    Args:
      params: of a language model.
      config: its shape.
      requests: from `request`.
      tokens: computed at a time; 0: `batch_tokens`.
      place: puts a batch on the devices.
      done: called with the number of requests that have been computed since.
    """
    results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
    waiting: list = []

    def collect():
        rows, (logprobs, likeliest) = waiting.pop(0)
        logprobs, likeliest = np.asarray(logprobs), np.asarray(likeliest)
        for i, row in enumerate(rows):
            for number, found in row.where:
                slots, which = (list(x) for x in zip(*found, strict=True))
                total = float(logprobs[i, slots, which].sum(dtype=np.float64))
                results[number] = total, bool(likeliest[i, slots, which].all())
        done(sum(len(row.where) for row in rows))

    if not requests:
        return results
    for rows, batch in _batches(requests, config, tokens or batch_tokens()):
        waiting.append(
            (rows, _read(params, config, **place(batch)))
        )  # not waited for: the next one is laid out meanwhile
        if len(waiting) > 1:
            collect()
    while waiting:
        collect()
    return results


def _batches(
    requests: Sequence[forest.Request], config: ModelConfig, tokens: int
) -> Iterator[tuple[list[forest.Row], dict[str, np.ndarray]]]:
    """Rows and their arrays, the widest first, so that memory that is missing is missed at once."""
    planned = forest.plan(requests, batch=tokens, pair_cost=pair_cost(config))
    for width in sorted(planned, reverse=True):
        count = max(1, tokens // width)
        rows = sorted(planned[width], key=lambda row: -len(row.slots))
        for start in range(0, len(rows), count):
            batch = rows[start : start + count]
            yield batch, forest.arrays(batch, count, width, _slots(max(len(row.slots) for row in batch), width))


def _slots(most: int, width: int) -> int:
    """Slots of a row, a power of two. On a CPU chunks of logits without a slot in use cost nothing."""
    fewest = width if platform() == "cpu" else FEWEST_SLOTS
    return max(fewest, 2 ** math.ceil(math.log2(most)))


@functools.partial(jax.jit, static_argnames="config")
def _read(params: dict, config: ModelConfig, tokens, positions, ends, slots, targets, mask):
    """Log-probability f32[B, S, K] of each target behind its slot, and whether it is the likeliest token."""
    hidden = tree_hidden(params, config, tokens, positions, ends)
    hidden = jax.numpy.take_along_axis(hidden, slots[..., None], axis=1)
    return target_logprobs(params, config, hidden, targets, mask, most=slots.shape[1])
