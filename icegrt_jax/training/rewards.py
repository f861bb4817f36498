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
    return _together(state, on_one_scale(scores, **state.members)) if state.members else scores


def centred_verdicts(
    state: TrainState, scores: jax.Array | None, baseline: jax.Array | None
) -> tuple[jax.Array | None, dict[str, jax.Array]]:
    """What `scaled_sum` takes, f32[B], and metrics: scores less those of the prompts' reference answers, where given.

    Of several reward models they are taken off what each says, before that is put together: up to what a prompt adds to
    all its answers, about which members need not agree (arXiv 2312.09244).

    Args:
      scores: f32[B], of several reward models f32[B, M]; None: there is none.
      baseline: f32[B / group_size] or likewise, with `PPOConfig.score_baseline`.
    """
    if scores is None:
        return None, {}
    placed = lambda x: on_one_scale(x, **state.members) if state.members else x
    scaled = placed(scores)
    if state.ppo.score_baseline == "reference":
        assert baseline is not None, "the reference answers have been scored"
        scaled = scaled - jnp.repeat(placed(baseline), state.ppo.group_size, axis=0)
    if not state.members:
        return scaled, {}
    return _together(state, scaled), {"ensemble_std": jnp.mean(ensemble_std(scaled))}


def _together(state: TrainState, scaled: jax.Array) -> jax.Array:
    return ensemble_scores(scaled, method=state.ppo.score_ensemble, coef=state.ppo.score_ensemble_coef)


def scaled_sum(
    state: TrainState,
    scores: jax.Array | None,
    opinions: dict[str, Opinions],
    sources: jax.Array | None = None,
) -> tuple[TrainState, jax.Array]:
    """The state with the moments moved on, and f32[B], what the penalties are taken off.

    That is the sum over the reward model and the user's functions of weight times scaled value. A function without
    an opinion of a response adds nothing to it.

    Args:
      scores: f32[B], see `centred_verdicts`; None where there is no reward model.
      sources: i32[B], see `score`.
    """
    config, total = state.ppo, None
    if config.reward_model:
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
    scores, _ = centred_verdicts(state, scores, baseline)
    scored = final_scores(state.ppo, scaled_sum(state, scores, opinions, sources)[1], finished, mask)
    return ~flat_groups(scored, state.ppo.group_size)[:: state.ppo.group_size]


def rewards_of(
    config: PPOConfig, scores: jax.Array, token_kl: jax.Array, mask: jax.Array, kl_coef: jax.Array
) -> jax.Array:
    """The reward of each token, f32[B, T], of final scores f32[B] and the KL f32[B, T], before any whitening."""
    return token_rewards(scores, token_kl, mask, kl_coef=kl_coef if config.kl_in == "reward" else 0.0)
