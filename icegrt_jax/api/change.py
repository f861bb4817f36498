"""What of a PPO training may change between two of its iterations: the options that its state is not built by."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from icegrt_jax.api import settings
from icegrt_jax.api.wanted import Wanted
from icegrt_jax.config import check
from icegrt_jax.config.options import DrawOptions, PPOOptions
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.rl import AdaptiveKL
from icegrt_jax.runs import iteration, sections
from icegrt_jax.runs.loop import Outcome
from icegrt_jax.runs.rewards import Rewards
from icegrt_jax.runs.roles import ppo_config
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.optimizers import make_optimizer
from icegrt_jax.training.state import TrainState

DRAWN = tuple(field.name for field in dataclasses.fields(DrawOptions))
OPTIMIZERS = {"policy": "policy_optimizer", "value": "value_optimizer"}
MAY = (
    "kl", "score", "reward_weights", "reward_scales", *OPTIMIZERS.values(), *DRAWN, "num_ppo_epochs", "entropy_coef",
    "gamma", "lam", "lam_alpha", "value_lam", "cliprange", "cliprange_high", "cliprange_value", "dual_clip",
    "whiten_rewards", "advantages", "advantage_clip",
)  # fmt: skip
# Of the score what decides what is measured or sampled before the first iteration.
BUILT = ("baseline", "by_source", "ensemble", "ensemble_coef")


class Changing:
    """The iteration of a training, with other options when they are asked for.

    Args:
      wanted: the checked inputs. once: the iteration as it begins.
      rewards: makes the caller of functions by name; those of before are closed by whoever has made them.
    """

    def __init__(self, wanted: Wanted, once: iteration.Iteration, rewards: Callable[[Mapping[str, Any]], Rewards]):
        self._wanted, self._once, self._rewards = wanted, once, rewards
        self._functions = dict(wanted.functions)
        self._next: TrainState | None = None

    def advance(self, state: TrainState, *more: Any) -> Outcome:
        """As of `Iteration`, from the state that a change has made of this one."""
        state, self._next = self._next or state, None
        return self._once.advance(state, *more)

    def change(self, state: TrainState, keys: Mapping[str, Any]) -> TrainState:
        """The state from which the next iteration goes on; where a key is refused, nothing has changed."""
        keys, before = dict(keys), self._wanted.section
        functions = self._with(keys.pop("reward")) if "reward" in keys else None
        refused = [name for name in keys if name not in MAY]
        if refused:
            raise UserError(f"{refused[0]} cannot change while a training goes on; what can: reward, {', '.join(MAY)}.")
        section = settings.section(before, None, keys, "ppo")
        self._check(before, section)
        options = dataclasses.replace(self._wanted.options, ppo=section)
        check(options)
        if bool(options.reward_model) != bool(self._wanted.weight):
            raise UserError("reward_weights.model cannot become 0, or cease to be, while a training goes on.")
        new = state.replace(
            ppo=ppo_config(section, self._wanted.critic, options.reward_model),
            kl=_controller(state.kl, before, section),
            optimizers=_optimizers(state, section),
        )
        rewards = self._once.rewards if functions is None else self._rewards(functions)
        anew = jax.tree.structure(new) != jax.tree.structure(state)
        self._once = iteration.changed(self._once, new, section, rewards=rewards, anew=anew)
        self._functions = functions or self._functions
        self._wanted = dataclasses.replace(
            self._wanted, section=section, options=options, weight=options.reward_model
        )  # fmt: skip
        self._next = shard_tree(new, self._once.run.mesh)
        return self._next

    def _with(self, reward: Any) -> dict[str, Any]:
        """The reward functions, each under the name that it has had from the start."""
        if self._wanted.section.reward_workers:
            raise UserError("reward cannot change while ppo.reward_workers have the functions; begin without workers.")
        names = list(self._functions)
        if not isinstance(reward, Mapping):
            if len(names) != 1:
                raise UserError(f"reward: there are {len(names)} functions here; give the new ones by name.")
            reward = {names[0]: reward}
        for name, one in reward.items():
            if name not in names or isinstance(one, Model):
                raise UserError(f"reward: {name!r} is no reward function of this training; they are {names}.")
        return {**self._functions, **reward}

    def _check(self, before: PPOOptions, section: PPOOptions) -> None:
        """Refuses what would need something that was not made before the first iteration."""
        if before.redraw:
            raise UserError("a training with ppo.redraw cannot change; begin it anew with the other options.")
        fixed = [f"score.{name}" for name in BUILT if getattr(before.score, name) != getattr(section.score, name)]
        if fixed:
            raise UserError(f"{fixed[0]} cannot change while a training goes on; begin it with that value.")
        scales: dict[str, tuple[str | None, str | None]] = (
            {"score.scale": (before.score.scale, section.score.scale)} if self._wanted.weight else {}
        )
        scales |= {
            f"reward_scales.{name}": (before.reward_scales.get(name), section.reward_scales.get(name))
            for name in self._functions
        }
        for name, (old, new) in scales.items():
            if new == "reference" and old != "reference":
                raise UserError(
                    f"{name}='reference' is measured before the first iteration; begin with it, or take "
                    "'running_mean_std', which measures as it goes."
                )


def _controller(now: AdaptiveKL, before: PPOOptions, section: PPOOptions) -> AdaptiveKL:
    """Where it has been steered to, unless another coefficient is given."""
    kl = section.kl
    new = AdaptiveKL.create(kl.coef, target=kl.target, horizon=kl.horizon, adaptive=kl.adaptive)
    return new if kl.coef != before.kl.coef else new.replace(kl_coef=now.kl_coef)


def _optimizers(state: TrainState, section: PPOOptions):
    """With the new rates; what they have remembered goes on."""
    found = []
    for role, old in state.optimizers:
        new = sections.optimizer_config(getattr(section, OPTIMIZERS[role]), old.total_steps)
        shapes = [jax.eval_shape(make_optimizer(config).init, {"kernel": jnp.zeros((1, 1))}) for config in (old, new)]
        if jax.tree.structure(shapes[0]) != jax.tree.structure(shapes[1]):
            raise UserError(
                f"{OPTIMIZERS[role]}: clipping or a schedule cannot come or go while a training goes on; change their "
                "values, or begin with them."
            )
        found.append((role, new))
    return tuple(found)
