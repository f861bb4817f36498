"""From what the reward model and the user's functions say of responses to the reward of each token."""

import jax
import jax.numpy as jnp

from icegrt_jax.rl import (
    ensemble_scores,
    ensemble_std,
    eos_penalty,
    flat_groups,
    length_penalty,
    on_one_scale,
    scale_by_source,
    scale_scores,
    token_rewards,
)
from icegrt_jax.training.state import Opinions, PPOConfig, TrainState


def verdicts(state: TrainState, scores: jax.Array) -> jax.Array:
    """The scores f32[B], of several reward models f32[B, M] as one."""
    if not state.members:
        return scores
    config, scaled = state.ppo, on_one_scale(scores, **state.members)
    return ensemble_scores(scaled, method=config.score_ensemble, coef=config.score_ensemble_coef)


def one_verdict(
    state: TrainState, scores: jax.Array | None, baseline: jax.Array | None
) -> tuple[jax.Array | None, jax.Array | None, dict[str, jax.Array]]:
    """What `scaled_sum` takes of several reward models, and metrics; of one or none both as they are.

    Reference answers are taken off what each member says, before they are put together: up to what a prompt adds to all
    its answers, about which members need not agree (arXiv 2312.09244).

    Args:
      scores: f32[B, M]. baseline: f32[B / group_size, M].
    """
    if not state.members or scores is None:
        return scores, baseline, {}
    config, scaled = state.ppo, on_one_scale(scores, **state.members)
    if baseline is not None:
        scaled = scaled - jnp.repeat(on_one_scale(baseline, **state.members), config.group_size, axis=0)
    together = ensemble_scores(scaled, method=config.score_ensemble, coef=config.score_ensemble_coef)
    return together, None, {"ensemble_std": jnp.mean(ensemble_std(scaled))}


def scaled_sum(
    state: TrainState,
    scores: jax.Array | None,
    opinions: dict[str, Opinions],
    baseline: jax.Array | None = None,
    sources: jax.Array | None = None,
) -> tuple[TrainState, jax.Array]:
    """The state with the moments moved on, and f32[B], what the penalties are taken off.

    That is the sum over the reward model and the user's functions of weight times scaled value. A function without
    an opinion of a response adds nothing to it.

    Args:
      scores: f32[B], the reward model's; None where there is no such model.
      baseline: f32[B / group_size], see `score`. sources: i32[B], likewise.
    """
    config, total = state.ppo, None
    if config.reward_model:
        if config.score_baseline == "reference" and not state.members:
            assert scores is not None and baseline is not None, "the reference answers have been scored"
            scores = scores - jnp.repeat(baseline, config.group_size)
        scaled, stats = scale_scores(scores, state.score_stats, method=config.score_scale, clip=config.score_clip)
        if state.source_stats:
            assert sources is not None, "it is known whose prompts they answer"
            scaled, of_sources = scale_by_source(
                scores, sources, state.source_stats, method=config.score_scale, clip=config.score_clip
            )
            state = state.replace(source_stats=of_sources)
        if config.score_shape == "sigmoid":
            scaled = jax.nn.sigmoid(scaled)
        state = state.replace(score_stats=stats)
        total = scaled if config.reward_model == 1.0 else config.reward_model * scaled
    reward_stats = {}
    for name, rule in config.rewards:
        given = opinions[name]
        scaled, reward_stats[name] = scale_scores(
            given.values, state.reward_stats[name], method=rule.scale, known=given.known,
            clip=config.score_clip if rule.scale != "none" else 0.0,
        )  # fmt: skip
        total = rule.weight * scaled if total is None else total + rule.weight * scaled
    assert total is not None, "neither a reward model nor a reward function"
    return state.replace(reward_stats=reward_stats), total


def final_scores(config: PPOConfig, scaled: jax.Array, finished: jax.Array, mask: jax.Array) -> jax.Array:
    """Scaled scores f32[B] less what a response pays for its length and for having been cut off."""
    penalized = eos_penalty(scaled, finished, config.eos_penalty)
    lengths = jnp.sum(mask, axis=1, dtype=jnp.int32)
    return length_penalty(penalized, lengths, config.length_penalty, config.length_target)


def have_signal(
    state: TrainState,
    mask: jax.Array,
    finished: jax.Array,
    scores: jax.Array | None,
    opinions: dict[str, Opinions],
    baseline: jax.Array | None = None,
    sources: jax.Array | None = None,
) -> jax.Array:
    """bool[B / group_size], the prompts whose answers do not all have one score, penalties taken off.

    Args:
      mask: bool[B, T]. finished: bool[B]. The others as of `scaled_sum`.
    """
    scores, baseline, _ = one_verdict(state, scores, baseline)
    scored = final_scores(state.ppo, scaled_sum(state, scores, opinions, baseline, sources)[1], finished, mask)
    return ~flat_groups(scored, state.ppo.group_size)[:: state.ppo.group_size]


def rewards_of(
    config: PPOConfig, scores: jax.Array, token_kl: jax.Array, mask: jax.Array, kl_coef: jax.Array
) -> jax.Array:
    """The reward of each token, f32[B, T], of final scores f32[B] and the KL f32[B, T], before any whitening."""
    return token_rewards(scores, token_kl, mask, kl_coef=kl_coef if config.kl_in == "reward" else 0.0)
