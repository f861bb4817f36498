"""Texts up to a stop string by the compiled sampler: prompts in few widths, answered in flight."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.data.packing import left_pad
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.sampling import SamplerConfig, compiled_sampler, sequence_keys

NARROWEST = 32  # tokens of a prompt's row at least


def width_of(length: int) -> int:
    """Tokens of the row that a prompt goes into: powers of two, and one and a half times each."""
    width = NARROWEST
    while width < length:
        width = width * 3 // 2 if width & (width - 1) == 0 else width * 4 // 3
    return width


def responses(
    key: jax.Array,
    params: dict,
    model: ModelConfig,
    prompts: Sequence[Sequence[int]],
    sampler: SamplerConfig,
    stops: np.ndarray | None,
    *,
    batch_size: int,
    place: Callable = lambda batch: batch,
    done: Callable[[int], object] = lambda count: None,
) -> list[list[int]]:
    """Tokens of the response to each prompt, an EOS included.

    Args:
      key: a response depends on it and on the prompt's place in the list.
      params: of a language model.
      model: its shape.
      prompts: ids, one or more each.
      sampler: how they are drawn.
      stops: from `stops.table`; None: no stop strings.
      batch_size: responses in flight at a time.
      place: puts a batch on the devices.
      done: called with the number of prompts that have been answered since.
    """
    found: list[list[int]] = [[] for _ in prompts]
    by_width: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_width.setdefault(width_of(len(prompt)), []).append(i)
    matching = None if stops is None else jnp.asarray(stops)
    for width in sorted(by_width, reverse=True):
        numbers = by_width[width]
        rows = _rows(len(numbers), batch_size)
        padded = [numbers[min(i, len(numbers) - 1)] for i in range(rows)]  # few shapes, few programs
        tokens, mask = left_pad([prompts[i] for i in padded], width, sampler.pad_id)
        keys = sequence_keys(key, 0, len(prompts))[jnp.array(padded)]
        rollout = compiled_sampler(
            *place((keys,)), params, *place((tokens, mask)),
            model=model, config=sampler, slots=min(batch_size, rows), count=len(numbers), stops=matching,
        )  # fmt: skip
        answers, kept = np.asarray(rollout.responses), np.asarray(rollout.mask)
        for row, i in enumerate(numbers):
            found[i] = answers[row][kept[row]].tolist()
        done(len(numbers))
    return found


def _rows(count: int, batch_size: int) -> int:
    """Rows for so many prompts: the batch size times a power of two."""
    rows = batch_size
    while rows < count:
        rows *= 2
    return rows
