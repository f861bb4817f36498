"""What of several reward models goes together. Needs no jax."""

from icegrt_jax.config.options import PPOOptions, RewardOptions, ScoreOptions
from icegrt_jax.errors import UserError


def check_ensemble(reward: RewardOptions, ppo: PPOOptions, weight: float) -> None:
    """Refuses several reward models that could not be made, and rules for them where there is one, or none.

    Args:
      weight: of the reward model in PPO; 0: it has none.
    """
    if reward.ensemble > 1 and not reward.steps:
        raise UserError(
            f"reward.ensemble={reward.ensemble} with reward.steps=0: none is trained; name finished ones in "
            "reward.ensemble_with, or set reward.steps."
        )
    if reward.ensemble_with and (reward.steps or reward.init in ("sft", "scratch")):
        raise UserError(
            "reward.ensemble_with names finished reward models beside that of reward.init; set reward.steps=0 and the "
            f"folder of one in reward.init (they are {reward.steps} and {reward.init!r}), or use reward.ensemble."
        )
    named = [reward.init, *reward.ensemble_with]
    if twice := [path for path in named if named.count(path) > 1]:
        raise UserError(f"reward.ensemble_with: {twice[0]!r} is named twice; several models that are one agree always.")
    if reward.ensemble_as == "weights" and reward.members == 1:
        raise UserError(
            "reward.ensemble_as='weights' is a mean of several models, and there is one; set reward.ensemble to 2 or "
            "more, or leave it out."
        )
    _check_rule(ppo.score, reward, weight)


def _check_rule(score: ScoreOptions, reward: RewardOptions, weight: float) -> None:
    if score.ensemble != "mean" and (reward.scorers == 1 or not weight):
        found = "PPO has no reward model" if not weight else "there is one that scores"
        raise UserError(
            f"ppo.score.ensemble={score.ensemble!r} puts together what several reward models say, and {found}; set "
            "reward.ensemble to 2 or more with reward.ensemble_as='scores', or leave it out."
        )
    if score.ensemble_coef != ScoreOptions.ensemble_coef and score.ensemble != "uncertainty":
        raise UserError(
            f"ppo.score.ensemble_coef={score.ensemble_coef} is of ppo.score.ensemble='uncertainty', and it is "
            f"{score.ensemble!r}; leave it out."
        )
