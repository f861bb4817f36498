"""Mean and spread of what is said of ICE-Instruct's own answers: by reward functions, by ICE-Reward of each source."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from icegrt_jax.data.records import Prompt
from icegrt_jax.hosts import sync
from icegrt_jax.rl import ScoreStats
from icegrt_jax.runs import score_scale, scoring
from icegrt_jax.runs.reward_model import Asked, sample_instruct, scores_of_answers
from icegrt_jax.runs.rewards import Rewards
from icegrt_jax.runs.rundir import Run
from icegrt_jax.runs.session import Session
from icegrt_jax.sampling.generate import Generation
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.rewards import verdicts
from icegrt_jax.training.state import PPOConfig, TrainState


def scaled_by_reference(ppo: PPOConfig) -> list[str]:
    """The functions that need it."""
    return [name for name, rule in ppo.rewards if rule.scale == "reference"]


def with_reference(run: Run, state: TrainState, rewards: Rewards, names: Sequence[str], asked: Asked) -> TrainState:
    """The state before the first iteration with the moments of these functions, measured on the answers to `asked`.

    They are the answers on which the reward stage normalises ICE-Reward: same prompts, same keys.
    """
    answers = sample_instruct(run, "ppo", asked, run.key("normalize"), num_samples=1).text
    return with_moments(run, state, rewards, names, asked.prompts, answers)


def with_source_moments(
    run: Session,
    state: TrainState,
    reader: scoring.Reader | None,
    asked: Mapping[str, Asked],
    answer: Callable[[Asked], Generation],
) -> TrainState:
    """The state before the first iteration with the moments of the scores of each source, by ICE-Instruct's answers.

    Args:
      asked: prompts of each source.
      answer: ICE-Instruct's answers to them.
    """
    stats, params = dict(state.source_stats), shard_tree(state.full("reward"), run.mesh)
    for name, own in asked.items():
        answers = answer(own)
        found = scores_of_answers(run, params, state.model("reward"), reader, own, answers)
        with jax.set_mesh(run.mesh):
            scores = sync.fetch(verdicts(state, jnp.asarray(found)))
        stats[name] = score_scale.moments(scores)
        mean, std = float(stats[name].ref_mean), float(stats[name].ref_std)
        print(f"ppo  source {name}: mean {mean:.4g}, deviation {std:.4g} over {len(scores)} answers of ICE-Instruct")
    return shard_tree(state.replace(source_stats=stats), run.mesh)


def with_moments(
    run: Session,
    state: TrainState,
    rewards: Rewards,
    names: Sequence[str],
    prompts: Sequence[Prompt],
    answers: Sequence[str],
) -> TrainState:
    """The state with the moments of these functions, measured on these answers."""
    found = rewards.ask("ppo, ICE-Instruct's answers", prompts, answers, names=names)().values
    stats = dict(state.reward_stats)
    for name in names:
        known = [value for value in found[name] if value is not None]
        mean = math.fsum(known) / max(len(known), 1)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / max(len(known), 1))
        stats[name] = ScoreStats.create(mean, std)
        of = f"{len(known)} of {len(answers)} answers of ICE-Instruct"
        print(f"ppo  reward {name}: mean {mean:.4g}, deviation {std:.4g} over {of}", flush=True)
    return shard_tree(state.replace(reward_stats=stats), run.mesh)
