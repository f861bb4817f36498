"""The checks of a config made before any device is touched; of types and choices they are in `convert.read`."""

import math
import re
from collections.abc import Mapping

from icegrt_jax import plugins
from icegrt_jax.config import own as own_sections
from icegrt_jax.config import rounds
from icegrt_jax.config.alarms import check_alarms
from icegrt_jax.config.best import check_average, metric_of
from icegrt_jax.config.choices import JUDGES, MODEL
from icegrt_jax.config.ensembles import check_ensemble
from icegrt_jax.config.estimators import ESTIMATORS, check_estimator
from icegrt_jax.config.judge_model import check_judge_model
from icegrt_jax.config.options import (
    EvaluateOptions,
    HeldoutOptions,
    LoRAOptions,
    ModelOptions,
    Options,
    PPOOptions,
    ReplayOptions,
    RewardOptions,
    ShapeOptions,
    SupervisedOptions,
    ValueOptions,
)
from icegrt_jax.config.penalty import check_penalty
from icegrt_jax.errors import UserError

WIDE_FOR_ANSWERS = 0.05  # a clip range that the ratio of a whole answer leaves only where training has gone wrong


def _check_specs(key: str, specs: Mapping[str, str]) -> None:
    for name, spec in specs.items():
        if ":" not in spec:
            raise UserError(f"{key}.{name}={spec!r}; expected FORMAT:PATH, such as jsonl:rows.jsonl.")


def _check_sources(key: str, section: SupervisedOptions | RewardOptions | PPOOptions | ReplayOptions) -> None:
    _check_specs(f"{key}.sources", section.sources)
    for name in section.sources:
        if name not in section.weights:
            raise UserError(f"{key}.weights has no {name!r}; give each source a weight.")
    for name in section.weights:
        if name not in section.sources:
            known = ", ".join(section.sources)
            raise UserError(f"{key}.weights.{name} has no source of that name; the sources are {known}.")


def _check_judges(evaluate: EvaluateOptions, ppo: PPOOptions, domain: str) -> None:
    """Their names and sources; their files are opened where the inputs are checked."""
    known = sorted({*JUDGES, *plugins.built_in("domains")})
    named = {"evaluate.judge": evaluate.judge, "evaluate.general_judge": evaluate.general_judge, "ppo.judge": ppo.judge}
    for key, group, specs in (
        ("judge", "domain", evaluate.domain),
        ("judge", "temperature_prompts", evaluate.temperature_prompts),
        ("general_judge", "general", evaluate.general),
    ):
        if not named[f"evaluate.{key}"] and set(specs) - set(evaluate.judges):
            names = ", ".join([*known, plugins.FORMS])
            raise UserError(f"evaluate.{key} is empty, but evaluate.{group} names prompts; expected one of {names}.")
    for key, own, sources in (
        ("evaluate.judges", evaluate.judges, {**evaluate.domain, **evaluate.temperature_prompts, **evaluate.general}),
        ("ppo.judges", ppo.judges, ppo.sources),
    ):
        for name, judge in own.items():
            named[f"{key}.{name}"] = judge
            if name not in sources:
                there = ", ".join(sources) or "none"
                raise UserError(f"{key}.{name} has no source of that name; the sources are {there}.")
    for key, judge in named.items():
        plugins.check_name(key, judge, ["", *known])
        if judge == "domain" and not domain:
            raise UserError(f"{key}='domain', but domain is empty; name a domain, or another judge.")
        if judge == MODEL and key.startswith("ppo."):
            raise UserError(f"{key}='model': PPO would wait for it at every iteration; name another judge.")
    used = next((key for key, judge in named.items() if judge == MODEL), "")
    check_judge_model("evaluate.judge_model.", evaluate.judge_model, used)


def _divides(key: str, whole: int, parts_key: str, parts: int) -> None:
    if whole % parts:
        raise UserError(f"{key}={whole} does not divide over {parts_key}={parts}; use a multiple of {parts}.")


def _check_blocks(key: str, rows: int, block_key: str, block: int) -> None:
    if block and rows > block:
        _divides(key, rows, block_key, block)


def check(options: Options) -> None:
    """Raises UserError for values that cannot work, alone or together."""
    plugins.check_name("domain", options.domain, ("", *plugins.built_in("domains")))
    for spec in options.log.writers:
        plugins.check_name("log.writers", spec, ())
    for name, section in (("pretrain", options.pretrain), ("sft", options.sft), ("reward", options.reward)):
        _check_trained(name, section)
    for name in own_sections.SECTIONS:
        if isinstance(mine := getattr(options, name, None), SupervisedOptions):
            _check_trained(name, mine)
    if options.model.path and options.pretrain.steps:
        raise UserError("pretrain.steps is for models trained from scratch; set it to 0 or leave model.path empty.")
    _check_evaluate(options.evaluate)
    _check_judges(options.evaluate, options.ppo, options.domain)
    _check_ppo(options.ppo)
    check_estimator(options.ppo, options.value)
    check_alarms(options.ppo, options.reward_model)
    check_ensemble(options.reward, options.ppo, options.reward_model)
    _check_critic(options.value)
    _check_model(options.model)
    for key, shape in (("model", options.model), ("reward.model", options.reward.model)):
        _check_shape(key, shape)
    _check_rewards(options.ppo, options.value, options.reward_model)
    rounds.check(options.rounds, options.annotation, options.reward, options.ppo, options.reward_model, options.domain)
    if options.roles.shared_base:
        _check_shared_base(options.reward if options.reward_model else None, options.ppo.lora)
    if options.ppo.iterations and not options.ppo.lora.rank:
        _check_whole_actor(options.model)
    if options.sft.lora.rank and not options.model.path and not options.pretrain.steps:
        raise UserError("sft.lora.rank is for a base model that exists; set model.path, or pretrain one.")
    if options.reward.lm_coef and options.reward.init == "scratch":
        raise UserError("reward.lm_coef is for a trunk that knows a language; use another reward.init, or 0.")
    if options.reward.lora.rank and options.reward.init == "scratch":
        raise UserError("reward.lora.rank is for a trunk that exists; use another reward.init, or rank 0.")


def check_given_reward(reward: RewardOptions, iterations: int, weight: float = 1.0) -> None:
    """Refuses a run that trains no reward model and is given none; a plan, or another stage alone, needs none.

    Args:
      iterations: of PPO.
      weight: of the reward model in PPO; 0: it has none.
    """
    if reward.steps:
        return
    if reward.init in ("sft", "scratch") and iterations and weight:
        raise UserError(
            f"reward.steps=0 with reward.init={reward.init!r}: PPO would have no reward model; set reward.steps, or "
            "name the folder of a finished one in reward.init, which is then used as it is; or set "
            "ppo.reward_weights.model=0 beside reward functions in ppo.rewards."
        )
    if reward.init not in ("sft", "scratch") and reward.lora.rank:
        raise UserError(f"reward.lora.rank={reward.lora.rank} with reward.steps=0: no adapter is trained; set it to 0.")


def doubts(reward: RewardOptions, ppo: PPOOptions, *, longest: int, weight: float) -> list[str]:
    """What is allowed but hardly meant, a sentence each, for whoever starts the run.

    Args:
      longest: max_prompt_length + max_response_length. weight: of the reward model in PPO; 0: it has none.
    """
    said, scores = [], ppo.iterations and weight
    if reward.steps and reward.init in ("sft", "scratch") and scores:  # a folder's tokenizer may count otherwise
        said += short_reward(reward, longest)
    if reward.steps and reward.score_length > reward.length:
        said.append(
            f"reward.score_length={reward.score_length} is above reward.length={reward.length}: PPO will score answers "
            f"longer than any the reward model has learned from; set reward.length={reward.score_length}."
        )
    if 0 < ppo.iterations <= ppo.value_warmup:
        said.append(
            f"ppo.value_warmup={ppo.value_warmup} with ppo.iterations={ppo.iterations}: only the critic will learn, "
            "and ICE-GRT will be ICE-Instruct; set a smaller ppo.value_warmup."
        )
    if ppo.iterations and ppo.estimator == "gspo" and ppo.cliprange > WIDE_FOR_ANSWERS:
        said.append(
            f"ppo.cliprange={ppo.cliprange} with ppo.estimator='gspo': the ratio is a mean over an answer's tokens and "
            "hardly leaves such a range; its paper (arXiv 2507.18071) has ppo.cliprange=3e-4, ppo.cliprange_high=4e-4."
        )
    return said


def short_reward(reward: RewardOptions, longest: int) -> list[str]:
    """A sentence where the reward model does not learn from the longest answers that PPO lets it score.

    Args:
      longest: max_prompt_length + max_response_length.
    """
    if reward.length >= longest:
        return []
    lost = {"drop": "are left out of its training", "cut": "lose their end in its training"}[reward.overlong]
    return [
        f"reward.length={reward.length} is below max_prompt_length + max_response_length={longest}: the longest "
        f"answers {lost}, and PPO will score them all the same; set reward.length={longest}."
    ]


def _check_trained(name: str, section: SupervisedOptions | RewardOptions) -> None:
    _check_blocks(f"{name}.batch_size", section.batch_size, f"{name}.microbatch", section.microbatch)
    _check_sources(name, section)
    _check_heldout(name, section)
    if section.steps and not section.sources:
        raise UserError(f"{name}.steps={section.steps}, but {name}.sources is empty; name a source.")


def _check_heldout(name: str, section: HeldoutOptions) -> None:
    """Refuses what would follow from measurements that are not made."""
    _check_specs(f"{name}.heldout", section.heldout)
    if section.heldout_every and not section.heldout:
        raise UserError(f"{name}.heldout_every={section.heldout_every}, but {name}.heldout is empty; name a source.")
    if section.best:
        metric_of(f"{name}.best", section.best)
        if not section.heldout_every:
            raise UserError(f"{name}.best={section.best!r} with {name}.heldout_every=0: nothing is measured; set it.")
    for key, given in (("patience", section.patience), ("use", section.use == "best")):
        if given and not section.best:
            raise UserError(f"{name}.{key}={getattr(section, key)!r} goes by {name}.best; name a number there.")


def _check_evaluate(evaluate: EvaluateOptions) -> None:
    _check_specs("evaluate.domain", evaluate.domain)
    _check_specs("evaluate.general", evaluate.general)
    _check_specs("evaluate.temperature_prompts", evaluate.temperature_prompts)
    if evaluate.reward_model and not evaluate.domain:
        raise UserError("evaluate.reward_model scores answers to evaluate.domain, which is empty; name prompts there.")
    tried = evaluate.temperatures
    if len(set(tried)) < len(tried):
        raise UserError(f"evaluate.temperatures={tried}; expected different ones.")
    if tried and not evaluate.temperature_prompts:
        raise UserError(
            f"evaluate.temperatures={tried}, but evaluate.temperature_prompts names none to choose on; name prompts "
            "that are not those of evaluate.domain."
        )
    if evaluate.temperature_prompts and not (tried and evaluate.domain):
        missing = "evaluate.domain" if tried else "evaluate.temperatures"
        raise UserError(f"evaluate.temperature_prompts names prompts, but {missing} is empty; set both or neither.")


def _check_critic(value: ValueOptions) -> None:
    if value.trunk == "own":
        return
    if value.vf_coef <= 0:
        raise UserError(f"value.vf_coef={value.vf_coef}; with value.trunk='policy' expected a number above 0.")
    if value.init != "reward":
        raise UserError(
            f"value.init={value.init!r} is for a critic with a trunk of its own; with value.trunk='policy' "
            "leave it out."
        )


def _check_shape(key: str, shape: ShapeOptions) -> None:
    _divides(f"{key}.num_heads", shape.num_heads, f"{key}.num_kv_heads", shape.num_kv_heads)
    if shape.head_dim % 2:
        raise UserError(f"{key}.head_dim={shape.head_dim}; expected an even number, for the rotary embedding.")


def _check_model(model: ModelOptions) -> None:
    for key in ("adapter", "hf_config"):
        if getattr(model, key) and not model.path:
            raise UserError(f"model.{key}={getattr(model, key)!r} belongs to a model; set model.path as well.")


def _check_rewards(ppo: PPOOptions, value: ValueOptions, weight: float) -> None:
    """Refuses reward functions and rules for them that do not fit, and PPO with nothing to learn from.

    Args:
      weight: of the reward model; 0: there is none.
    """
    for name, spec in ppo.rewards.items():
        key = f"ppo.rewards.{name}"
        if name == "model" or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            what = "is ICE-Reward's name" if name == "model" else "is no name"
            raise UserError(f"{key}: {name!r} {what}; use another one, of letters, digits, _ and -.")
        if ":" not in spec:
            raise UserError(f"{key}={spec!r}; expected FILE.py:FUNCTION.")
        plugins.check_name(key, spec, ())
    known = ", ".join(ppo.rewards) or "none"
    for name in ppo.reward_weights:
        if name not in (*ppo.rewards, "model"):
            raise UserError(f"ppo.reward_weights.{name}: no function of that name; there are: {known}, and model.")
    for name in ppo.reward_scales:
        if name not in ppo.rewards:
            said = "ICE-Reward's is ppo.score.scale" if name == "model" else f"there are: {known}"
            raise UserError(f"ppo.reward_scales.{name}: no function of that name; {said}.")
    if ppo.reward_failed not in ("stop", "none") and not _is_number(ppo.reward_failed):
        raise UserError(f"ppo.reward_failed={ppo.reward_failed!r}; expected 'stop', 'none' or a number such as '-1'.")
    if not any([weight, *(ppo.reward_weights.get(name, 1.0) for name in ppo.rewards)]):
        raise UserError("every weight in ppo.reward_weights is 0: PPO would have nothing to learn from.")
    _check_score(ppo, weight)
    from_reward = ESTIMATORS[ppo.estimator].critic and value.trunk == "own" and value.init == "reward"
    if ppo.iterations and not weight and from_reward:
        raise UserError(
            "value.init='reward': PPO has no reward model (its weight is 0, or there is no reward stage), so the "
            "critic cannot start from it; set value.init='sft'."
        )


def _check_score(ppo: PPOOptions, weight: float) -> None:
    """Refuses what is made of ICE-Reward's score where there is none, or where it does not go with another key.

    Args:
      weight: of the reward model; 0: there is none.
    """
    for key in ("baseline", "shape"):
        if getattr(ppo.score, key) != "none" and ppo.iterations and not weight:
            given = getattr(ppo.score, key)
            raise UserError(
                f"ppo.score.{key}={given!r} is of ICE-Reward's score, and PPO has no reward model; leave it out."
            )
    if ppo.score.by_source and (not weight or ppo.score.scale == "none"):
        found = f"ppo.score.scale={ppo.score.scale!r}" if weight else "PPO has no reward model"
        raise UserError(
            f"ppo.score.by_source=true with {found}: there is nothing to scale by a source's own moments; set it to "
            "false, or a ppo.score.scale."
        )
    if ppo.score.baseline == "reference" and ppo.score.scale == "reference":
        raise UserError(
            "ppo.score.baseline='reference' with ppo.score.scale='reference': the score is centred already, and "
            "ICE-Instruct's mean would be taken off again; use ppo.score.scale='none' or 'running_std'."
        )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_shared_base(reward: RewardOptions | None, lora: LoRAOptions) -> None:
    """Refuses roles that cannot all be adapters on ICE-Instruct; without a reward model (None) those of PPO."""
    if reward is None:
        if not lora.rank:
            raise UserError(f"roles.shared_base needs adapters: ppo.lora.rank={lora.rank} must be above 0.")
        return
    if not (reward.lora.rank and lora.rank):
        raise UserError(
            f"roles.shared_base needs adapters: reward.lora.rank={reward.lora.rank} and "
            f"ppo.lora.rank={lora.rank} must both be above 0."
        )
    if reward.init != "sft":
        raise UserError(
            f"reward.init={reward.init!r}: with roles.shared_base the reward model is an adapter on "
            "ICE-Instruct; use reward.init='sft'."
        )


def _check_whole_actor(model: ModelOptions) -> None:
    """Refuses a reference that is stored in other numbers than an actor without adapter starts from."""
    if model.param_dtype == "int8":
        raise UserError(
            "model.param_dtype='int8' with ppo.lora.rank=0: the actor would not start as the int8 reference; "
            "use an adapter, or bfloat16."
        )
    if model.param_dtype == "bfloat16" and model.dtype != "bfloat16":
        raise UserError(
            f"model.param_dtype='bfloat16' with model.dtype={model.dtype!r} and ppo.lora.rank=0: the actor "
            "would not start as the bfloat16 reference; use model.dtype='bfloat16' as well, or an adapter."
        )


def _check_ppo(ppo: PPOOptions) -> None:
    _check_sources("ppo", ppo)
    _check_heldout("ppo", ppo)
    check_average(ppo)
    if ppo.heldout_every and not ppo.judge:
        raise UserError(f"ppo.heldout_every={ppo.heldout_every}, but ppo.judge is empty; name who grades the answers.")
    _check_sources("ppo.ptx", ppo.ptx)
    check_penalty(ppo.kl.kind, ppo.kl.into, ("ppo.kl.kind", "ppo.kl.into"))
    if ppo.value_flat and ppo.value_warmup < 2 * ppo.value_flat:
        raise UserError(
            f"ppo.value_flat={ppo.value_flat} with ppo.value_warmup={ppo.value_warmup}: two windows are compared, and "
            "value_warmup is the most; make it twice value_flat or more, or value_flat 0 for a fixed length."
        )
    if ppo.iterations and not ppo.sources:
        raise UserError(f"ppo.iterations={ppo.iterations}, but ppo.sources is empty; name a source of prompts.")
    if ppo.temperature <= 0:
        raise UserError(f"ppo.temperature={ppo.temperature}; sampling needs a temperature above 0.")
    _check_rows(ppo)
    if ppo.kl.adaptive and not ppo.kl.coef:
        raise UserError(
            "ppo.kl.coef=0.0: an adaptive coefficient begins above 0; for a fixed one, or none, set "
            "ppo.kl.adaptive=false."
        )
    if ppo.kl.band[0] > ppo.kl.band[1]:
        raise UserError(f"ppo.kl.band={ppo.kl.band}; expected the smaller share of the target first.")
    rows = ppo.batch_size * ppo.samples_per_prompt
    if ppo.kl.adaptive and rows >= 5 * ppo.kl.horizon:
        raise UserError(f"ppo.kl.horizon={ppo.kl.horizon} is too short for {rows} responses; use {rows} or more.")


def _check_rows(ppo: PPOOptions) -> None:
    """Refuses responses and replay that do not divide over slots, minibatches and their blocks."""
    _divides("ppo.rollout_slots", ppo.rollout_slots, "ppo.samples_per_prompt", ppo.samples_per_prompt)
    rows = ppo.batch_size * ppo.samples_per_prompt
    _divides("ppo.batch_size * samples_per_prompt", rows, "ppo.num_minibatches", ppo.num_minibatches)
    minibatch = rows // ppo.num_minibatches
    _check_blocks("a minibatch of ppo.batch_size * samples_per_prompt", minibatch, "ppo.microbatch", ppo.microbatch)
    _check_blocks("ppo.batch_size * samples_per_prompt", rows, "ppo.score_batch", ppo.score_batch)
    if not ppo.ptx.coef:
        return
    _divides("ppo.ptx.batch_size", ppo.ptx.batch_size, "ppo.num_minibatches", ppo.num_minibatches)
    blocks = max(minibatch // ppo.microbatch, 1) if ppo.microbatch else 1
    part, key = ppo.ptx.batch_size // ppo.num_minibatches, "the blocks of ppo.microbatch in a minibatch"
    _divides("ppo.ptx.batch_size / num_minibatches", part, key, blocks)
    if not ppo.ptx.sources:
        raise UserError(f"ppo.ptx.coef={ppo.ptx.coef}, but ppo.ptx.sources is empty; name a source.")
