"""Sizes of packed rows: few, and enough for what is put into them."""

import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.sampling import Rollout, Rows
from icegrt_jax.training import buckets
from icegrt_jax.training.buckets import bucketed, fewest_tokens, fitted
from icegrt_jax.training.packing import first_fit
from icegrt_jax.training.ppo import minibatch_order
from tests.training.examples import make_state
from tests.training.test_packing import reference_first_fit


def test_widths_are_few_and_hold_the_longest_row():
    for length in (1, 31, 64, 112, 128, 300, 1000, 2048):
        found = [bucketed(longest, length) for longest in range(1, length + 1)]
        assert len(set(found)) <= buckets.WIDTHS and found[-1] == length
        assert all(longest <= width for longest, width in enumerate(found, start=1))
    assert bucketed(33, 128) == 64 and bucketed(65, 1024) == 128


WIDE = list(range(4, 65, 4))  # of rows for sequences of at most 32 tokens, and for several of them


def needed_by(lengths):
    """Rows that sequences of these lengths need at each width, by lists."""
    return [reference_first_fit(lengths, w)[1] if w >= max(lengths) else len(lengths) + 1 for w in WIDE]


@pytest.mark.parametrize("blocks, parts", [(1, 1), (4, 1), (1, 4), (2, 4), (16, 2)])
@pytest.mark.parametrize("seed", range(5))
def test_rows_hold_what_they_must_and_divide_over_blocks_and_devices(seed, blocks, parts):
    rng, found = np.random.default_rng(seed), set()
    for _ in range(40):
        lengths = rng.integers(1, rng.integers(2, 33), 32).tolist()
        rows = fewest_tokens(needed_by(lengths), widths=WIDE, sequences=32, length=32, blocks=blocks, parts=parts)
        assert reference_first_fit(lengths, rows.width)[1] <= rows.height <= 32 and rows.width >= max(lengths)
        assert rows.height % (blocks * parts) == 0 and rows.height * rows.width**2 <= 32 * 32**2
        alone = next(width for width in WIDE if width >= max(lengths))
        assert rows.height * rows.width <= 32 * alone
        found.add(rows.height)
    assert found <= {4, 8, 16, 24, 32}


def test_rows_for_several_may_be_wider_than_the_longest_sequence():
    sizes = dict(widths=WIDE, sequences=32, length=32, blocks=1, parts=1)
    mixed = needed_by([28, 16] * 16)  # no two of them are 32 tokens or fewer
    assert fewest_tokens(mixed, **sizes) == Rows(16, 44)
    assert fewest_tokens(mixed, **sizes, pack=False) == Rows(32, 28)
    assert fewest_tokens(needed_by([16] * 32), **sizes) == Rows(32, 16)  # as many tokens as 16 x 32, and fewer pairs
    assert fewest_tokens(needed_by([32] * 2 + [4] * 30), **sizes) == Rows(4, 48)
    assert fewest_tokens(needed_by([32] * 32), **sizes) == Rows(32, 32)


@pytest.mark.parametrize("seed", range(3))
def test_every_minibatch_fits_into_its_rows_and_they_hold_fewer_tokens(seed):
    rng, (rows, prompt, new) = np.random.default_rng(seed), (64, 96, 160)
    lengths = rng.integers(1, prompt + 1, rows), rng.integers(1, new + 1, rows)
    prompt_mask, mask = (jnp.arange(n)[None] < jnp.asarray(x)[:, None] for n, x in zip((prompt, new), lengths))
    blank = lambda x: jnp.zeros(x.shape, jnp.int32)
    rollout = Rollout(
        blank(prompt_mask), prompt_mask[:, ::-1], blank(mask), mask, jnp.zeros(mask.shape), jnp.ones(rows, jnp.bool_)
    )
    state = make_state(num_minibatches=4, num_ppo_epochs=2, score_batch=8).replace(microbatch=2)
    score, update = fitted(state, rollout).packing
    total = jnp.asarray(sum(lengths), jnp.int32)
    groups = {score: total[None], update: total[minibatch_order(state.key, state.step, state.ppo, rows)]}
    assert score.height * score.width < 0.8 * rows * (prompt + new) and update.height <= rows // 4
    for size, members in groups.items():
        for group in members:
            row, column, used = first_fit(group, size.height, size.width)
            assert used <= size.height and (column + group <= size.width).all()
    assert score.height % 8 == 0 and update.height % 2 == 0
    alone = fitted(state, rollout, pack=False).packing
    assert (alone.score.height, alone.update.height) == (64, 16) and alone.score.width == bucketed(
        int(total.max()), 256
    )


def test_few_sequences_need_few_sizes():
    """Drawn anew 50 times, as iterations draw them; the sizes of 16 are at most four, and hold few empty places."""
    length, wide = 256, [*range(32, 513, 32)]
    for seed in range(3):
        rng, found, held, real = np.random.default_rng(seed), set(), 0, 0
        for _ in range(50):
            lengths = (rng.integers(35, 129, 16) + np.minimum(rng.geometric(0.01, 16), 128)).tolist()
            needed = [reference_first_fit(lengths, w)[1] if w >= max(lengths) else 17 for w in wide]
            rows = fewest_tokens(needed, widths=wide, sequences=16, length=length, blocks=1, parts=1)
            assert reference_first_fit(lengths, rows.width)[1] <= rows.height and rows.width >= max(lengths)
            found.add(rows)
            held, real = held + rows.height * rows.width, real + sum(lengths)
        assert len(found) <= 4 and held < 1.4 * real, (found, held / real)
