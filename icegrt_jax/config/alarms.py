"""The checks of `ppo.alarms`."""

import difflib

from icegrt_jax.config.choices import ALARMS
from icegrt_jax.config.options import PPOOptions
from icegrt_jax.errors import UserError


def check_alarms(ppo: PPOOptions, weight: float) -> None:
    """Refuses names that are none, and what could not be measured.

    Args:
      weight: of the reward model in PPO; 0: it has none.
    """
    alarms = ppo.alarms
    for key in ("off", "stop"):
        for name in getattr(alarms, key):
            if name not in ALARMS:
                close = difflib.get_close_matches(name, ALARMS, n=1)
                hint = f"did you mean {close[0]}?" if close else f"expected some of {', '.join(ALARMS)}."
                raise UserError(f"ppo.alarms.{key}: no alarm is called {name!r}; {hint}")
    if both := set(alarms.off) & set(alarms.stop):
        raise UserError(f"ppo.alarms.stop: {min(both)} is in ppo.alarms.off as well; take it out of one of them.")
    if alarms.reward_every:
        _check_reward(ppo, weight)


def _check_reward(ppo: PPOOptions, weight: float) -> None:
    """Refuses a look at the reward model that has nothing to look at."""
    key = f"ppo.alarms.reward_every={ppo.alarms.reward_every}"
    if not weight:
        raise UserError(f"{key} looks at the reward model, and PPO has none; set it to 0.")
    if not (ppo.judge or ppo.judges):
        raise UserError(f"{key}, but ppo.judge is empty; name who says which answer is the better one.")
    if ppo.samples_per_prompt > 1:
        return
    if not ppo.heldout:
        raise UserError(
            f"{key} with ppo.samples_per_prompt=1: answers to different prompts make no pairs; name prompts to be "
            "answered several times in ppo.heldout, or sample more answers per prompt."
        )
    if ppo.alarms.reward_k < 2:
        raise UserError(f"ppo.alarms.reward_k={ppo.alarms.reward_k}; a pair needs 2 answers or more.")
