"""The estimators without a critic, and the switches of the actor's loss, from a rollout to an update."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.models.heads import unembed
from icegrt_jax.models.transformer import hidden_states
from icegrt_jax.sampling import Rows
from icegrt_jax.training.forward import answer_scores, response_logprobs
from icegrt_jax.training.ppo import ppo_update, read_roles, score
from icegrt_jax.training.state import PPOConfig, trained
from icegrt_jax.training.updates import policy_update
from tests.rl import references
from tests.training.examples import POLICY, SCALAR, B, P, T, make_experience, make_state
from tests.training.test_updates import UNCLIPPED, gradient

GROUP = 4
# estimator -> what goes with it in a config, and how its paper adds up the losses of tokens
PAPERS = {
    "rloo": ({}, "constant"),
    "grpo": ({"kl_in": "loss", "kl_kind": "k3"}, "sequence"),
    "dr_grpo": ({"kl_in": "loss", "kl_kind": "k3"}, "constant"),
    "gspo": ({"kl_in": "loss", "kl_kind": "k3"}, "sequence"),
    "reinforce_pp": ({}, "token"),
}
each_estimator = pytest.mark.parametrize("estimator", PAPERS)


def make(estimator: str = "gae", **more):
    """The roles, without a critic where the estimator has none."""
    options = {**PAPERS.get(estimator, ({}, ""))[0], "reference_seed": 5, "group_size": GROUP, **more}
    state = make_state(estimator=estimator, **options)
    if state.ppo.critic:
        return state
    without = lambda pairs: tuple(pair for pair in pairs if pair[0] != "value")
    params, opt_state = (
        {role: x for role, x in tree.items() if role != "value"} for tree in (state.params, state.opt_state)
    )
    return state.replace(
        params=params, opt_state=opt_state, models=without(state.models), optimizers=without(state.optimizers)
    )


@pytest.fixture(scope="module")
def parts(rollout):
    """Scores and reference log-probs, each by a function with tests of its own."""
    state = make()
    args = (rollout.prompts, rollout.prompt_mask, rollout.responses, rollout.mask)
    tokens = jnp.concatenate([rollout.prompts, rollout.responses], axis=1)
    seen = jnp.concatenate([rollout.prompt_mask, rollout.mask], axis=1)
    found = {
        "scores": answer_scores(state.params["reward"], SCALAR, tokens, seen),
        "ref_logprobs": response_logprobs(state.params["reference"], POLICY, *args, temperature=1.0)[0],
    }
    return {name: np.asarray(x, np.float64) for name, x in found.items()}


def expected_advantages(estimator, rollout, parts, kl_coef=0.3):
    """From the words of the papers, in float64."""
    mask, logprobs = np.asarray(rollout.mask), np.asarray(rollout.logprobs, np.float64)
    kl = np.where(mask, logprobs - parts["ref_logprobs"], 0.0)
    if estimator == "reinforce_pp":
        rewards = references.token_rewards(parts["scores"], kl, mask, kl_coef)
        to_come, _ = references.gae(rewards, np.zeros_like(rewards), mask, 1.0, 1.0)
        return references.whiten(to_come, mask)
    if estimator == "rloo":
        whole = references.leave_one_out(parts["scores"] - kl_coef * kl.sum(1), GROUP)
    else:
        whole = references.group_advantages(parts["scores"], GROUP, scale=estimator != "dr_grpo")
    return np.where(mask, whole[:, None], 0.0)


@each_estimator
def test_advantages_are_those_of_the_paper_and_no_critic_is_held_or_asked(estimator, rollout, parts):
    state = make(estimator)
    assert "value" not in read_roles(state, rollout) and set(trained(state).params) == {"policy", "reward"}
    scored, experience, metrics = jax.jit(score)(state, rollout)
    expected = expected_advantages(estimator, rollout, parts)
    np.testing.assert_allclose(experience.advantages, expected, atol=1e-4, rtol=1e-4)
    assert experience.values is None and experience.returns is None and "explained_variance" not in metrics
    if estimator == "reinforce_pp":
        assert "group_std" not in metrics
    else:
        np.testing.assert_allclose(metrics["group_std"], references.group_std(parts["scores"], GROUP), rtol=1e-4)
        assert metrics["group_flat"] == 0.0
    if state.ppo.kl_in == "loss":
        np.testing.assert_allclose(experience.kl_coef, 0.3, rtol=1e-6, err_msg="as it is: no unit to be divided by")
    updated, learned = jax.jit(ppo_update)(scored, experience)
    assert set(updated.params) == set(state.params) and "value_loss" not in learned
    assert {"policy_loss", "ratio", "entropy", "grad_norm"} <= set(learned)


def logprobs_of(state, batch):
    args = (batch.prompts, batch.prompt_mask, batch.responses, batch.mask)
    return np.asarray(response_logprobs(state.params["policy"], POLICY, *args, temperature=1.0)[0], np.float64)


def answers_experience():
    """Every token of an answer has the answer's advantage; log-probs that the ratios are near 1 on both sides."""
    batch = make_experience().replace(values=None, returns=None)
    logprobs = logprobs_of(make(), batch)
    old = logprobs - np.random.default_rng(3).normal(0, 0.2, (B, T))
    advantages = np.random.default_rng(4).normal(size=(B, 1)) * np.ones((B, T))
    inside = lambda x: jnp.where(batch.mask, jnp.asarray(x, jnp.float32), 0.0)
    return batch.replace(old_logprobs=inside(old), advantages=inside(advantages), ref_logprobs=inside(logprobs + 0.1))


@pytest.mark.parametrize("rows", [None, Rows(8, 2 * (P + T))], ids=["alone", "packed"])
@each_estimator
def test_the_policy_loss_is_that_of_the_paper(estimator, rows):
    state, batch = make(estimator, cliprange=0.1, cliprange_high=0.15), answers_experience()
    logprobs, old, mask = logprobs_of(state, batch), np.asarray(batch.old_logprobs), np.asarray(batch.mask)
    ratios = references.sequence_ratios(logprobs, old, mask) if estimator == "gspo" else np.exp(logprobs - old)
    losses = references.token_losses(ratios, batch.advantages, 0.1, 0.15)
    method = PAPERS[estimator][1]
    expected = references.aggregated(losses, mask, method)
    if state.ppo.kl_in == "loss":  # inside of the same sum
        k3 = np.expm1(np.asarray(batch.ref_logprobs) - logprobs) - (np.asarray(batch.ref_logprobs) - logprobs)
        expected += 0.3 * references.aggregated(k3, mask, method)
    _, metrics = jax.jit(policy_update)(state, batch.replace(rows=rows))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["ratio"], references.mean(ratios, mask), rtol=1e-4)
    assert 0.05 < metrics["clip_frac"] < 0.95


def test_a_key_may_choose_another_aggregation():
    batch, losses = answers_experience(), {}
    for method in ("own", "token", "sequence", "constant"):
        state = make("dr_grpo", loss_aggregation=method)
        losses[method] = float(jax.jit(policy_update)(state, batch)[1]["loss"])
    assert losses["own"] == losses["constant"] and len(set(losses.values())) == 3


@pytest.mark.parametrize("estimator", ["gspo", "grpo"])
def test_an_update_in_microbatches_of_packed_rows_is_that_of_the_whole_batch(estimator):
    state = make(estimator, entropy_coef=0.1)
    batch = answers_experience().replace(keep=jnp.arange(B) % 3 > 0)
    whole = jax.jit(policy_update)(state, batch)
    parts = jax.jit(policy_update)(state.replace(microbatch=4), batch.replace(rows=Rows(8, 2 * (P + T))))
    chex.assert_trees_all_close(parts[1], whole[1], atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(parts[0].params, whole[0].params, atol=1e-5)


@pytest.mark.parametrize("method", ["token", "sequence", "constant"])
def test_answers_that_are_left_out_are_as_if_they_were_not_there(method):
    """Of loss, KL and entropy; the rows that stay make the same step alone."""
    options = dict(loss_aggregation=method, entropy_coef=0.1)
    batch, keep = answers_experience(), np.arange(B) % 2 == 0
    left_out = jax.jit(policy_update)(make("grpo", **options), batch.replace(keep=jnp.asarray(keep)))
    alone = jax.jit(policy_update)(make("grpo", **options), jax.tree.map(lambda x: x[keep], batch))
    np.testing.assert_allclose(left_out[1]["loss"], alone[1]["loss"], rtol=1e-4)
    chex.assert_trees_all_close(left_out[0].params, alone[0].params, atol=1e-5)
    nothing = jax.jit(policy_update)(make("grpo", **options), batch.replace(keep=jnp.zeros(B, bool)))
    assert nothing[1]["loss"] == 0.0 and nothing[1]["grad_norm"] == 0.0


def test_prompts_without_a_signal_and_answers_without_an_end_are_left_out_where_asked(rollout):
    scores = jnp.concatenate([jnp.full(GROUP, 0.5), jnp.arange(B - GROUP, dtype=jnp.float32)])
    run = jax.jit(score)
    for groups, overlong in ((False, False), (True, False), (False, True), (True, True)):
        state = make("grpo", filter_groups=groups, filter_overlong=overlong)
        _, experience, metrics = run(state, rollout, scores)
        assert metrics["group_flat"] == GROUP / B
        expected = np.ones(B, bool)
        if groups:
            expected &= np.arange(B) >= GROUP
        if overlong:
            expected &= np.asarray(rollout.finished)
        if not (groups or overlong):
            assert experience.keep is None and "kept" not in metrics
            continue
        np.testing.assert_array_equal(experience.keep, expected)
        assert metrics["kept"] == pytest.approx(expected.mean())
    _, experience, _ = run(make(filter_overlong=True), rollout)
    np.testing.assert_array_equal(experience.keep, rollout.finished, "with a critic as well")


def test_the_entropy_bonus_is_in_the_loss_and_its_gradient_is_that_of_the_entropy():
    batch = make_experience()
    batch = batch.replace(advantages=jnp.zeros_like(batch.advantages))
    state = make(optimizer=UNCLIPPED, entropy_coef=0.2, temperature=0.8)
    updated, metrics = jax.jit(policy_update)(state, batch)
    np.testing.assert_allclose(metrics["loss"], -0.2 * metrics["entropy"], rtol=1e-5)
    tokens = jnp.concatenate([batch.prompts, batch.responses], axis=1)
    seen = jnp.concatenate([batch.prompt_mask, batch.mask], axis=1)

    def bonus(params):
        logits = unembed(params, POLICY, hidden_states(params, POLICY, tokens, seen))[:, P - 1 : -1] / 0.8
        logprobs = jax.nn.log_softmax(logits)
        return 0.2 * jnp.mean(jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1), where=batch.mask)

    wanted = jax.jit(jax.grad(bonus))(state.params["policy"])
    chex.assert_trees_all_close(gradient(updated, "policy"), wanted, atol=1e-5)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted)) > 1e-3


def test_actor_and_critic_have_a_lambda_each_and_the_actor_s_may_follow_the_length(rollout):
    run = jax.jit(score)
    plain = run(make(lam=0.5, advantages="none"), rollout)[1]
    values, mask = np.asarray(plain.values, np.float64), np.asarray(rollout.mask)
    _, _, metrics = run(make(lam=0.5), rollout)
    kl = np.where(mask, np.asarray(plain.old_logprobs, np.float64) - plain.ref_logprobs, 0.0)
    rewards = references.token_rewards(np.asarray(metrics["scaled_histogram"], np.float64), kl, mask, 0.3)
    _, experience, _ = run(make(lam=0.5, value_lam=1.0, advantages="none"), rollout)
    np.testing.assert_allclose(experience.advantages, plain.advantages, atol=1e-6)
    expected = references.gae(rewards, values, mask, 1.0, 1.0)[1]
    np.testing.assert_allclose(experience.returns, expected, atol=1e-4)
    assert np.abs(expected - plain.returns).max() > 0.05
    _, experience, _ = run(make(lam=0.5, value_lam=0.5, lam_alpha=0.4, advantages="none"), rollout)
    np.testing.assert_allclose(experience.returns, plain.returns, atol=1e-5)
    lam = references.length_adaptive_lam(mask, 0.4)
    rows = [[x[i : i + 1] for x in (rewards, values, mask)] for i in range(B)]
    by_row = [references.gae(*row, 1.0, own)[0] for row, own in zip(rows, lam, strict=True)]
    np.testing.assert_allclose(experience.advantages, np.concatenate(by_row), atol=1e-4)


def test_dapo_s_overlong_shaping_is_the_length_penalty():
    """arXiv 2503.14476, eq. 13, of at most 8 tokens of which the last 4 are the interval of punishment."""
    from icegrt_jax.rl import length_penalty

    lengths, longest, cache = np.arange(1, 9), 8, 4
    punishment = np.where(lengths <= longest - cache, 0.0, ((longest - cache) - lengths) / cache)
    np.testing.assert_allclose(length_penalty(jnp.zeros(8), lengths, 1 / cache, longest - cache), punishment)


def test_an_answer_alone_is_no_group():
    with pytest.raises(
        UserError, match="group_size=1 with ppo.estimator='grpo', which compares the answers to a prompt"
    ):
        PPOConfig(estimator="grpo")
    assert PPOConfig(estimator="reinforce_pp").group_size == 1
