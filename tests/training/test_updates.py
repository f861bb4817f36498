"""The four update steps: their losses against float64 NumPy, their gradients, and what must not matter to them."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.data.packing import right_pad
from icegrt_jax.data.trees import arrays, tree_of
from icegrt_jax.models.heads import unembed
from icegrt_jax.models.transformer import hidden_states
from icegrt_jax.training.forward import answer_scores, response_logprobs
from icegrt_jax.training.updates import policy_update, reward_update, sft_update, value_update
from tests.rl import references
from tests.training.examples import (
    OPTIMIZER,
    POLICY,
    SCALAR,
    P,
    make_examples,
    make_experience,
    make_ranking_batch,
    make_sft_batch,
    make_state,
    response_values,
    rows_of,
)

UNCLIPPED = dataclasses.replace(OPTIMIZER, max_grad_norm=0.0)
PPO = {"cliprange": 0.1, "cliprange_high": 0.3, "dual_clip": 1.5, "kl_in": "loss", "kl_kind": "k3", "ptx_coef": 0.4}
sft, reward, policy, value = map(jax.jit, (sft_update, reward_update, policy_update, value_update))


def gradient(state, role):
    """The gradient of the first update, read off Adam's first moment."""
    return jax.tree.map(lambda mu: mu / (1 - UNCLIPPED.b1), state.opt_state[role][0].mu)


@pytest.fixture(scope="module")
def state():
    return make_state(optimizer=UNCLIPPED, **PPO)


def test_packed_rows_teach_what_the_same_examples_teach_alone(state):
    examples = make_examples(16)
    packed, alone = (rows_of(examples, length=14, packed=p) for p in (True, False))
    assert packed["tokens"].shape[0] < alone["tokens"].shape[0] == 16
    packed_state, packed_metrics = sft(state, packed)
    alone_state, alone_metrics = sft(state, alone)
    chex.assert_trees_all_close(packed_metrics, alone_metrics, atol=1e-5)
    chex.assert_trees_all_close(gradient(packed_state, "policy"), gradient(alone_state, "policy"), atol=1e-5)
    assert packed_metrics["targets"] == sum(sum(e.mask[1:]) for e in examples) and packed_metrics["loss"] > 1
    assert packed_state.step == 1


def test_the_sft_loss_is_the_mean_over_answer_tokens_of_all_rows(state):
    batch = make_sft_batch()
    _, metrics = sft(state, batch)
    total, count = 0.0, 0
    tokens, segments, targets = (np.asarray(batch[name]) for name in ("tokens", "segment_ids", "loss_mask"))
    pad = lambda ids: jnp.asarray(np.pad(ids, (0, 18 - len(ids)))[None])
    logprobs_of = jax.jit(lambda prompt, rest, mask: response_logprobs(
        state.params["policy"], POLICY, prompt, jnp.ones_like(prompt, jnp.bool_), rest, mask, temperature=1.0
    )[0])  # fmt: skip
    for row in range(4):  # each example read alone, its first token as the prompt
        for segment in range(1, segments[row].max() + 1):
            at = np.flatnonzero(segments[row] == segment)
            mask = pad(np.ones(len(at) - 1, bool))
            logprobs = logprobs_of(jnp.asarray(tokens[row, at[:1]][None]), pad(tokens[row, at[1:]]), mask)[0]
            wanted = targets[row, at[1:]]
            total -= float(np.asarray(logprobs)[: len(at) - 1][wanted].sum())
            count += int(wanted.sum())
    first_rows = jax.tree.map(lambda x: x[:4], batch)
    padded = {**batch, "loss_mask": batch["loss_mask"].at[4:].set(False)}
    np.testing.assert_allclose(sft(state, padded)[1]["loss"], total / count, atol=1e-5)
    assert first_rows["loss_mask"][:, 1:].sum() == count > 20
    assert abs(metrics["loss"] - total / count) > 1e-4, "the other rows count as well"


def test_the_policy_loss_equals_its_terms_in_float64(state):
    batch = make_experience(ptx=True)
    _, metrics = policy(state, batch)
    logprobs = np.asarray(response_logprobs(
        state.params["policy"], POLICY, batch.prompts, batch.prompt_mask, batch.responses, batch.mask, temperature=1.0
    )[0])  # fmt: skip
    surrogate, expected = references.ppo_policy_loss(
        logprobs, batch.old_logprobs, batch.advantages, batch.mask, 0.1, 0.3, dual_clip=1.5
    )
    pairs = zip(references.valid(logprobs, batch.mask), references.valid(batch.ref_logprobs, batch.mask))
    kl = np.mean([references.kl_estimate(a, b, "k3") for a, b in pairs])
    ptx = sft(state, batch.ptx)[1]["loss"]
    for name, number in {**expected, "kl_loss": kl, "ptx_loss": ptx}.items():
        np.testing.assert_allclose(metrics[name], number, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(metrics["loss"], surrogate + 0.3 * kl + 0.4 * ptx, rtol=1e-4)
    difference = np.abs(logprobs - batch.old_logprobs)
    np.testing.assert_allclose(metrics["logprob_diff"], references.mean(difference, batch.mask), rtol=1e-4)
    assert 0 < metrics["entropy"] < np.log(POLICY.vocab_size)
    assert metrics["clip_frac"] > 0 and metrics["dual_clip_frac"] > 0, "the example should exercise both"


def test_the_exact_kl_in_the_loss_is_the_sum_over_the_vocabulary_and_its_gradient():
    options = dict(kl_in="loss", kl_kind="exact", temperature=0.8, reference_seed=5)
    state, batch = make_state(optimizer=UNCLIPPED, **options), make_experience()
    batch = batch.replace(advantages=jnp.zeros_like(batch.advantages))
    tokens = jnp.concatenate([batch.prompts, batch.responses], axis=1)
    seen = jnp.concatenate([batch.prompt_mask, batch.mask], axis=1)

    @jax.jit
    def logits(params):  # f32[B, T, V] that each response token is drawn from
        return unembed(params, POLICY, hidden_states(params, POLICY, tokens, seen))[:, P - 1 : -1] / 0.8

    ours, theirs = (np.asarray(logits(state.params[role]), np.float64) for role in ("policy", "reference"))
    expected = np.mean([references.exact_kl(ours[b, t], theirs[b, t]) for b, t in np.argwhere(batch.mask)])
    updated, metrics = policy(state, batch)
    np.testing.assert_allclose(metrics["kl_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], 0.3 * expected, rtol=1e-4)

    def penalty(params):
        logprobs, ref_logprobs = (jax.nn.log_softmax(x) for x in (logits(params), jnp.asarray(theirs, jnp.float32)))
        kl = jnp.sum(jnp.exp(logprobs) * (logprobs - ref_logprobs), axis=-1)
        return 0.3 * jnp.mean(kl, where=batch.mask)

    wanted = jax.jit(jax.grad(penalty))(state.params["policy"])
    chex.assert_trees_all_close(gradient(updated, "policy"), wanted, atol=1e-5)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted)) > 1e-2


def test_a_ratio_error_is_the_mean_distance_from_1_of_whatever_sign(state):
    batch = make_experience(ptx=True)
    args = (POLICY, batch.prompts, batch.prompt_mask, batch.responses, batch.mask)
    logprobs = response_logprobs(state.params["policy"], *args, temperature=1.0)[0]
    up = (jnp.arange(16) % 2 == 0)[:, None]
    off = batch.replace(old_logprobs=logprobs - jnp.where(up, jnp.log(1.1), jnp.log(0.9)))
    _, metrics = policy(state, off)
    np.testing.assert_allclose(metrics["ratio_error"], 0.1, atol=1e-4)
    assert abs(metrics["ratio"] - 1) < 0.05


def test_the_value_loss_equals_its_terms_in_float64(state):
    batch = make_experience()
    _, metrics = value(state, batch)
    values = response_values(
        state.params["value"], SCALAR, batch.prompts, batch.prompt_mask, batch.responses, batch.mask
    )
    loss, clip_frac = references.ppo_value_loss(values, batch.values, batch.returns, batch.mask, 0.2)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(metrics["value_clip_frac"], clip_frac, rtol=1e-4)
    assert clip_frac > 0


def test_the_metrics_are_those_that_the_docstrings_name(state):
    """`name`s in the part of a docstring that says what is returned, against what is."""
    made = {sft_update: sft(state, make_sft_batch()), reward_update: reward(state, make_ranking_batch())}
    for step, (_, metrics) in made.items():
        named = set(re.findall(r"`(\w+)`", step.__doc__.partition("Returns:")[2]))
        assert named == set(metrics), step.__name__


def test_all_pairs_of_a_prompt_from_one_forward_equal_pair_by_pair(state):
    batch = make_ranking_batch()
    updated, metrics = reward(state, batch)
    scores = answer_scores(
        state.params["reward"], SCALAR, batch["tokens"].reshape(-1, 9), batch["mask"].reshape(-1, 9)
    ).reshape(16, 4)
    loss, accuracy, margin = references.ranking_loss(scores, batch["ranks"], batch["valid"])
    for name, number in {"loss": loss, "accuracy": accuracy, "margin": margin}.items():
        np.testing.assert_allclose(metrics[name], number, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(metrics["score"], references.mean(scores, batch["valid"]), rtol=1e-4)

    ranks, valid = np.asarray(batch["ranks"]), np.asarray(batch["valid"])
    k = range(4)
    pairs = [
        [(b, i, j) for i in k for j in k if valid[b, [i, j]].all() and ranks[b, i] < ranks[b, j]] for b in range(16)
    ]
    prompts = [rows for rows in pairs if rows]
    weights = jnp.array([1 / len(rows) / len(prompts) for rows in prompts for _ in rows])
    b, i, j = np.array([pair for rows in prompts for pair in rows]).T

    def pairwise(params):
        read = lambda k: answer_scores(params, SCALAR, batch["tokens"][b, k], batch["mask"][b, k])
        return -jnp.sum(weights * jax.nn.log_sigmoid(read(i) - read(j)))

    chex.assert_trees_all_close(
        gradient(updated, "reward"), jax.jit(jax.grad(pairwise))(state.params["reward"]), atol=1e-5
    )


def test_answers_read_as_a_tree_teach_what_each_alone_teaches(state):
    """Answers that share a prompt and first words, one twice, one a beginning of another; a missing one."""
    rng = np.random.default_rng(4)
    rows, length = [], 12
    for b in range(6):
        prompt, first = rng.integers(4, 24, 5).tolist(), rng.integers(4, 24, 3).tolist()
        ends = [rng.integers(4, 24, n).tolist() for n in (4, 1, 2)]
        rows.append([prompt + first, *(prompt + first + end for end in ends), prompt + first + ends[b % 3]])
    tokens, mask = right_pad([ids for row in rows for ids in row], length, 0)
    ranks, valid = rng.integers(1, 4, (6, 5)).astype(np.float32), rng.random((6, 5)) < 0.9
    ranked, shape = {"ranks": ranks, "valid": valid}, (6, 5, length)
    padded = {**ranked, "tokens": tokens.reshape(shape), "mask": mask.reshape(shape)}
    laid_out = [tree_of(row) for row in rows]
    last = np.array([last for _, last in laid_out], np.int32)
    trees = {**ranked, **arrays([tree for tree, _ in laid_out], 32, 0), "last": last}
    (padded_state, padded_metrics), (tree_state, tree_metrics) = reward(state, padded), reward(state, trees)
    assert trees["mask"].sum() < mask.sum() / 2 and padded_metrics["loss"] > 0.1
    chex.assert_trees_all_close(tree_metrics, padded_metrics, atol=1e-5)
    chex.assert_trees_all_close(gradient(tree_state, "reward"), gradient(padded_state, "reward"), atol=1e-5)
    dirty = {**trees, "tokens": np.where(trees["mask"], trees["tokens"], 17)}
    assert_same_update(reward, state, trees, dirty)


def test_the_reward_model_stays_a_language_model_of_the_best_answers(state):
    """The loss beside the ranking loss is the mean over the tokens of each prompt's first best answer, in float64."""
    batch = make_ranking_batch()
    start = np.random.default_rng(2).integers(1, 4, batch["valid"].shape)
    batch["start"] = jnp.asarray(start, jnp.int32)
    matrix = {"lm_head": {"kernel": jax.random.normal(jax.random.key(3), (SCALAR.d_model, SCALAR.vocab_size))}}
    tied = SCALAR.tie_embeddings
    state = state if tied else state.replace(params={**state.params, "unembedding": matrix})
    step = jax.jit(functools.partial(reward_update, lm_coef=0.5))
    updated, metrics = step(state, batch)

    losses = []
    ranks = np.where(batch["valid"], batch["ranks"], np.inf)
    for b, k in enumerate(ranks.argmin(axis=1)):
        tokens, mask = batch["tokens"][b, k][None], batch["mask"][b, k][None]
        hidden = hidden_states(state.params["reward"], SCALAR, tokens, mask)
        logits = np.asarray(unembed({**state.params["reward"], **({} if tied else matrix)}, SCALAR, hidden), np.float64)
        for t in range(start[b, k], int(mask.sum())):
            row = logits[0, t - 1]
            losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[int(tokens[0, t])])
    _, plain = reward(state, batch)
    np.testing.assert_allclose(metrics["lm_loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], plain["loss"] + 0.5 * np.mean(losses), rtol=1e-5)
    assert {*metrics} - {*plain} == {"lm_loss"} and metrics["accuracy"] == plain["accuracy"]
    if not tied:
        chex.assert_trees_all_equal(updated.params["unembedding"], matrix)
    parts = step(state.replace(microbatch=4), batch)
    chex.assert_trees_all_close(parts[1], metrics, atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(parts[0].params, updated.params, atol=1e-5)


def soiled(x, mask, garbage):
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, garbage)


def assert_same_update(step, state, clean, dirty):
    (clean_state, clean_metrics), (dirty_state, dirty_metrics) = step(state, clean), step(state, dirty)
    chex.assert_trees_all_equal(clean_metrics, dirty_metrics)
    chex.assert_trees_all_equal(clean_state.params, dirty_state.params)


@pytest.mark.parametrize("step", [policy, value], ids=["policy", "value"])
def test_garbage_in_the_padding_of_prompts_and_responses_changes_nothing(step, state):
    clean = make_experience(ptx=True)
    numbers = {
        name: soiled(getattr(clean, name), clean.mask, garbage)
        for name, garbage in [
            ("old_logprobs", jnp.nan), ("ref_logprobs", -jnp.inf), ("values", 1e4), ("advantages", jnp.nan),
            ("returns", jnp.inf),
        ]
    }  # fmt: skip
    dirty = clean.replace(
        prompts=soiled(clean.prompts, clean.prompt_mask, 23),
        responses=soiled(clean.responses, clean.mask, 9),
        **numbers,
    )
    assert_same_update(step, state, clean, dirty)


def test_garbage_in_the_padding_of_packed_rows_changes_nothing(state):
    clean = make_sft_batch()
    dirty = {**clean, "tokens": soiled(clean["tokens"], clean["segment_ids"] > 0, 23)}
    assert (clean["tokens"] != dirty["tokens"]).any()
    assert_same_update(sft, state, clean, dirty)


def test_garbage_in_missing_answers_and_their_padding_changes_nothing(state):
    clean = make_ranking_batch()
    tokens = soiled(soiled(clean["tokens"], clean["mask"], 23), clean["valid"], 5)
    assert_same_update(
        reward, state, clean, {**clean, "tokens": tokens, "ranks": soiled(clean["ranks"], clean["valid"], 0.5)}
    )


def test_a_response_with_a_positive_advantage_becomes_likelier_and_one_with_a_negative_less():
    batch = make_experience()
    good = jnp.arange(16) % 2 == 0
    state = make_state(optimizer=dataclasses.replace(OPTIMIZER, lr=1e-3))
    args = (POLICY, batch.prompts, batch.prompt_mask, batch.responses, batch.mask)
    logprobs = jax.jit(lambda params: response_logprobs(params, *args, temperature=1.0)[0])
    before = logprobs(state.params["policy"])
    advantages = jnp.where(batch.mask, jnp.where(good[:, None], 1.0, -1.0), 0.0)
    state, metrics = policy(state, batch.replace(old_logprobs=before, advantages=advantages))
    change = jnp.sum(logprobs(state.params["policy"]) - before, axis=1)
    assert change[good].mean() > 0.01 and change[~good].mean() < -0.01
    np.testing.assert_allclose(metrics["ratio"], 1.0, atol=1e-5)
    np.testing.assert_allclose(metrics["approx_kl"], 0.0, atol=1e-7)
