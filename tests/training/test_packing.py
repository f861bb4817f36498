"""Sequences one behind another in rows: where each begins, that nothing gets lost, and that updates stay the same."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.sampling import Packings, Rows
from icegrt_jax.training import buckets
from icegrt_jax.training.buckets import fitted
from icegrt_jax.training.packing import Packing, first_fit, pack_experience, rows_needed
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.updates import policy_update, policy_value_update, value_update
from tests.training.examples import OPTIMIZER, B, T, make_experience, make_rollout, make_state
from tests.training.parts import shared_state

SHORT = jnp.arange(T)[None, :] < 1 + jnp.arange(B)[:, None] % 2  # so that several fit into a row


def reference_first_fit(lengths, width):
    """(row, column) of each sequence and the number of rows, by lists."""
    used, places = [], {}
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((row for row, length in enumerate(used) if length + lengths[i] <= width), len(used))
        used += [0] * (row == len(used))
        places[i] = (row, used[row])
        used[row] += lengths[i]
    return [places[i] for i in range(len(lengths))], len(used)


@pytest.mark.parametrize("seed", range(5))
def test_each_sequence_is_put_where_first_fit_by_lists_puts_it(seed):
    lengths = np.random.default_rng(seed).integers(1, 33, 40)
    places, rows = reference_first_fit(lengths.tolist(), 32)
    row, column, used = first_fit(jnp.asarray(lengths, jnp.int32), rows + seed, 32)
    assert list(zip(row.tolist(), column.tolist())) == places and used == rows
    others = jnp.full(40, 16, jnp.int32)
    assert rows_needed(jnp.stack([jnp.asarray(lengths, jnp.int32), others]), 32) == max(rows, 20)
    assert rows_needed(jnp.asarray([[33, 1], [1, 1]]), 32) == 3  # none: a sequence is too long


def test_every_token_is_in_the_rows_once_and_comes_back():
    batch = make_experience()
    packing = Packing(batch.prompt_mask, batch.mask, Rows(12, 14))
    rows = packing.tokens(batch.prompts, batch.responses)
    valid = np.asarray(rows.segment_ids) > 0
    found = {}
    for r, w in np.argwhere(valid):
        name = int(rows.segment_ids[r, w])
        assert int(rows.positions[r, w]) == len(found.setdefault(name, []))
        found[name].append((int(rows.tokens[r, w]), bool(rows.mask[r, w])))
    for b in range(B):
        prompt = np.asarray(batch.prompts[b])[np.asarray(batch.prompt_mask[b])]
        response = np.asarray(batch.responses[b])[np.asarray(batch.mask[b])]
        assert found[b + 1] == [(int(t), False) for t in prompt] + [(int(t), True) for t in response]
    assert len(found) == B and (np.asarray(rows.tokens)[~valid] == 0).all()
    numbers = pack_experience(batch.replace(rows=Rows(12, 14)))
    for name in ("old_logprobs", "values", "returns"):
        back = packing.responses(getattr(numbers, name))
        np.testing.assert_array_equal(back, getattr(batch, name))
    assert numbers.packed.most >= int(numbers.packed.mask.sum(1).max())


@pytest.mark.parametrize("rows", [Rows(8, 14), Rows(8, 12), Rows(16, 12)], ids=str)
@pytest.mark.parametrize("microbatch", [0, 4])
@pytest.mark.parametrize("update", [policy_update, value_update, policy_value_update], ids=lambda f: f.__name__)
def test_an_update_from_shared_rows_is_that_from_rows_of_their_own(update, microbatch, rows):
    if update is policy_value_update:
        state = shared_state(head_only=True)
    else:
        optimizer = dataclasses.replace(OPTIMIZER, max_grad_norm=0.0)
        state = make_state(optimizer=optimizer, kl_in="loss", kl_kind="exact", ptx_coef=0.5, reference_seed=5)
    state = state.replace(microbatch=microbatch)
    batch = make_experience(ptx=update is policy_update)
    batch = batch.replace(mask=batch.mask & SHORT)
    expected, expected_metrics = jax.jit(update)(state, batch)
    got, metrics = jax.jit(update)(state, batch.replace(rows=rows))
    chex.assert_trees_all_close(metrics, expected_metrics, atol=2e-5)
    chex.assert_trees_all_close(got.params, expected.params, atol=2e-4)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), got.params, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-2


@pytest.mark.parametrize(
    "options", [{}, dict(score_batch=4, recompute_logprobs=True, kl_kind="exact", kl_in="loss")], ids=str
)
@pytest.mark.parametrize("pack", [True, False], ids=["shared", "own"])
def test_an_iteration_on_packed_rows_gives_the_same_numbers(options, pack, monkeypatch):
    state = make_state(reference_seed=5, num_minibatches=2, num_ppo_epochs=2, **options)
    state = state.replace(microbatch=2)
    rollout = make_rollout(state)
    rollout = rollout.replace(mask=rollout.mask & SHORT, logprobs=jnp.where(SHORT, rollout.logprobs, 0.0))
    monkeypatch.setattr(buckets, "BUCKET", 2)
    packed = fitted(state, rollout, pack=pack)
    shared, own = Packings(Rows(8, 10), Rows(4, 10)), Packings(Rows(16, 8), Rows(8, 8))
    assert packed.packing == (shared if pack else own)

    @jax.jit
    def iterate(state, rollout):
        state, experience, scored = score(state, rollout)
        state, learned = ppo_update(state, experience)
        return state.params, scored, learned

    chex.assert_trees_all_close(iterate(state, packed), iterate(state, rollout), atol=2e-4)
