"""What a call of `ppo` asks for: models, reward functions and options, checked as those of a config."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icegrt_jax.api import settings
from icegrt_jax.config.checks import check
from icegrt_jax.config.choices import ParamDtype
from icegrt_jax.config.estimators import ESTIMATORS
from icegrt_jax.config.options import LengthOptions, ModelOptions, Options, PPOOptions, RewardOptions, ValueOptions
from icegrt_jax.data.tokenizers import same_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.models.members import Members


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Checked.

    Attributes:
      model: the policy. reward: the reward model, or None.
      functions: {name: reward function, or its FILE.py:NAME}.
      section: of PPO, the names of sources and functions in it.
      weight: of the reward model; 0 where there is none.
      frozen: dtype of frozen trees.
      options: all of them, as they were checked.
    """

    model: Model
    reward: Model | None
    functions: dict[str, Callable | str]
    section: PPOOptions
    critic: ValueOptions
    weight: float
    frozen: ParamDtype
    options: Options


def want(
    model: Model,
    reward: Any,
    section: PPOOptions,
    value: ValueOptions | Mapping | None,
    lengths: LengthOptions,
    param_dtype: ParamDtype,
    given: Mapping[str, Sequence],
    replayed: Mapping[str, Sequence],
) -> Wanted:
    """Raises UserError for what cannot work; the arguments are those of `ppo`, the data read."""
    if section.average:
        raise UserError("ppo.average is for configs, whose runs choose a point; here average the params of two models.")
    if section.alarms.reward_every and section.samples_per_prompt == 1:
        raise UserError(
            "ppo.alarms.reward_every compares answers to one prompt; here it needs samples_per_prompt=2 or more."
        )
    scorer, functions = _rewards(reward)
    section = _with_given(section, given, replayed, functions)
    critic = _critic(value, model, scorer, needed=ESTIMATORS[section.estimator].critic)
    if scorer is None and section.reward_weights.get("model"):
        raise UserError("ppo.reward_weights.model, but reward has no model; give one, or leave the weight out.")
    options = Options(
        **vars(lengths),
        ppo=section,
        value=critic,
        # The models are here, as if the folders of finished ones had been named.
        reward=RewardOptions(init="sft" if scorer is None else "given", ensemble_with=_others(scorer)),
        model=ModelOptions(path="given", dtype=model.config.dtype, param_dtype=param_dtype),
    )
    check(options)
    return Wanted(model, scorer, functions, section, critic, options.reward_model, param_dtype, options)


def _others(scorer: Model | None) -> tuple[str, ...]:
    """Of several reward models in one those after the first, as if they had been named."""
    several = scorer.params.count if scorer is not None and isinstance(scorer.params, Members) else 1
    return tuple(f"given {number}" for number in range(2, several + 1))


def _rewards(reward: Any) -> tuple[Model | None, dict[str, Any]]:
    """The reward model, if one is given, and the functions by name."""
    by_name = reward if isinstance(reward, Mapping) else {_name_of(reward): reward}
    model = by_name.get("model")
    if model is not None and not isinstance(model, Model):
        raise UserError("reward: 'model' is the reward model's name; give the function another.")
    functions = {name: one for name, one in by_name.items() if name != "model"}
    for name, one in functions.items():
        if isinstance(one, Model):
            raise UserError(f"reward: the reward model is called 'model', not {name!r}.")
        if not callable(one) and not (isinstance(one, str) and ":" in one):
            raise UserError(
                f"reward: {name}={one!r:.80}; expected a function of (prompts, responses, records), its FILE.py:NAME, "
                "or a reward model."
            )
    if model is not None:
        model.need_scores("reward")
    if not by_name:
        raise UserError("reward is empty; give a function, a reward model, or both by name.")
    return model, functions


def _name_of(reward: Any) -> str:
    if isinstance(reward, Model):
        return "model"
    name = reward.rpartition(":")[2] if isinstance(reward, str) else getattr(reward, "__name__", "reward")
    return name if name.isidentifier() and name != "model" else "reward"


def _with_given(
    section: PPOOptions, given: Mapping[str, Sequence], replayed: Mapping[str, Sequence], functions: Mapping[str, Any]
) -> PPOOptions:
    """PPO's options with the given sources and functions by name, ready to be checked as a config's."""
    if not section.iterations:
        raise UserError("ppo.iterations=0; say how many: iterations=50.")
    if bool(section.ptx.coef) != bool(replayed):
        what, how = "replay is given" if replayed else "no replay is", "ptx={'coef': 1.0} and replay=examples"
        raise UserError(f"ppo.ptx.coef={section.ptx.coef} and {what}; give both, {how}.")
    weights = settings.named_weights(replayed, section.ptx.weights)
    return dataclasses.replace(
        section,
        sources=dict.fromkeys(given, "python:given"),
        weights=settings.named_weights(given, section.weights),
        rewards=dict.fromkeys(functions, "python:given"),
        ptx=dataclasses.replace(section.ptx, sources=dict.fromkeys(replayed, "python:given"), weights=weights),
    )


def _critic(
    value: ValueOptions | Mapping | None, model: Model, reward_policy: Model | None, *, needed: bool
) -> ValueOptions:
    """The critic's options; without any it starts from the reward model where it can. `needed`: there is to be one."""
    own = reward_policy is not None and same_tokenizer(reward_policy.tokenizer, model.tokenizer)
    if value is None:
        return ValueOptions() if own else ValueOptions(init="sft")
    found = settings.given(ValueOptions(), value, "value")
    if needed and found.init == "reward" and found.trunk == "own" and not own:
        why = "reads with another tokenizer" if reward_policy else "is not given"
        raise UserError(f"value.init='reward': the reward model {why}, so the critic cannot start from it; use 'sft'.")
    return found
