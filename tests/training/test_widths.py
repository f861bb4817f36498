"""A rollout without the columns that are padding in every row."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.training import widths
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.widths import bucketed, trimmed
from tests.training.examples import P, T, make_rollout, make_state


def test_widths_are_few_and_hold_the_longest_row():
    for length in (1, 31, 64, 112, 128, 300, 1000):
        found = [bucketed(longest, length) for longest in range(1, length + 1)]
        assert len(set(found)) <= widths.WIDTHS and found[-1] == length
        assert all(longest <= width for longest, width in enumerate(found, start=1))
    assert bucketed(33, 128) == 64 and bucketed(65, 1024) == 256


def padded(rollout, prompt, response):
    """More padding on the left of the prompts and on the right of the responses."""
    left = lambda x: jnp.pad(x, ((0, 0), (prompt, 0)))
    right = lambda x: jnp.pad(x, ((0, 0), (0, response)))
    return rollout.replace(
        prompts=left(rollout.prompts), prompt_mask=left(rollout.prompt_mask), responses=right(rollout.responses),
        mask=right(rollout.mask), logprobs=right(rollout.logprobs),
    )  # fmt: skip


def test_trimming_changes_no_number_of_an_iteration(monkeypatch):
    monkeypatch.setattr(widths, "BUCKET", 2)
    state = make_state(reference_seed=5, num_minibatches=2)
    rollout = make_rollout(state)
    wide = padded(rollout, 26, 24)
    narrow = trimmed(wide)
    assert wide.prompts.shape[1] == 32 and wide.mask.shape[1] == 32
    assert narrow.prompts.shape[1] == 8 and narrow.mask.shape[1] == 8 and (P, T) == (6, 8)
    np.testing.assert_array_equal(narrow.responses, rollout.responses)
    np.testing.assert_array_equal(narrow.prompts[:, 2:], rollout.prompts)

    @jax.jit
    def iterate(state, rollout):
        state, experience, scored = score(state, rollout)
        state, learned = ppo_update(state, experience)
        return state.params, scored, learned

    chex.assert_trees_all_close(iterate(state, narrow), iterate(state, wide), atol=2e-4)


def test_a_rollout_that_needs_its_width_stays_as_it_is():
    rollout = make_rollout(make_state())
    assert trimmed(rollout) is rollout
