"""Sizes of packed rows: few, and enough for what is put into them."""

import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.sampling import Rollout
from icegrt_jax.training import widths
from icegrt_jax.training.blocks import block_count
from icegrt_jax.training.packed import first_fit
from icegrt_jax.training.ppo import minibatch_order
from icegrt_jax.training.widths import bucketed, fitted, row_count
from tests.training.examples import make_state


def test_widths_are_few_and_hold_the_longest_row():
    for length in (1, 31, 64, 112, 128, 300, 1000, 2048):
        found = [bucketed(longest, length) for longest in range(1, length + 1)]
        assert len(set(found)) <= widths.WIDTHS and found[-1] == length
        assert all(longest <= width for longest, width in enumerate(found, start=1))
    assert bucketed(33, 128) == 64 and bucketed(65, 1024) == 128


@pytest.mark.parametrize("block", [0, 4, 8, 16, 32])
@pytest.mark.parametrize("parts, replay", [(1, 0), (4, 0), (1, 8), (4, 16)])
def test_row_counts_are_few_and_fit_blocks_devices_and_replay(block, parts, replay):
    found = set()
    for needed in range(1, 33):
        rows = row_count(needed, 32, block=block, parts=parts, replay=replay)
        found.add(rows)
        assert needed <= rows <= 32 and rows % parts == 0
        blocks = block_count(rows, block)  # raises where they do not divide
        assert rows == 32 or not replay or replay % (blocks * parts) == 0
    assert len(found) <= widths.COUNTS and max(found) == 32


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
    assert score.count * score.width < 0.8 * rows * (prompt + new) and update.count <= rows // 4
    for size, members in groups.items():
        for group in members:
            row, column, used = first_fit(group, size.count, size.width)
            assert used <= size.count and (column + group <= size.width).all()
    assert score.count % 8 == 0 and update.count % 2 == 0
    alone = fitted(state, rollout, pack=False).packing
    assert (alone.score.count, alone.update.count) == (64, 16) and alone.score.width == bucketed(int(total.max()), 256)
