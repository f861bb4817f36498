"""The checks of a config that are made before any device is touched."""

import math

from ml_collections import ConfigDict

from icegrt_jax.config.file import flatten
from icegrt_jax.config.options import (
    ATTENTIONS,
    CACHE_DTYPES,
    DOMAINS,
    JUDGES,
    LORA_TARGETS,
    PARAM_DTYPES,
    REMATS,
    SCHEDULES,
)
from icegrt_jax.config.penalty import check_penalty
from icegrt_jax.errors import UserError


def _choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{key}={value!r}; expected one of {', '.join(map(repr, known))}.")


def _at_least(config: ConfigDict, keys: str, smallest: int) -> None:
    for key in keys.split():
        value = config
        for part in key.split("."):
            value = value[part]
        if value < smallest:
            raise UserError(f"{key}={value}; expected {smallest} or more.")


def _check_specs(key: str, specs: ConfigDict) -> None:
    for name, spec in specs.items():
        if ":" not in spec:
            raise UserError(f"{key}.{name}={spec!r}; expected FORMAT:PATH, such as jsonl:rows.jsonl.")


def _check_sources(key: str, specs: ConfigDict, weights: ConfigDict) -> None:
    _check_specs(f"{key}.sources", specs)
    for name in specs:
        if name not in weights:
            raise UserError(f"{key}.weights has no {name!r}; give each source a weight.")
    for name in weights:
        if name not in specs:
            raise UserError(f"{key}.weights.{name} has no source of that name; the sources are {', '.join(specs)}.")


def _check_judge(key: str, judge: str, specs_key: str, specs: ConfigDict) -> None:
    _choice(key, judge, JUDGES)
    if specs and not judge:
        raise UserError(f"{key} is empty, but {specs_key} names prompts; expected one of {', '.join(JUDGES[1:])}.")


def _divides(key: str, whole: int, parts_key: str, parts: int) -> None:
    if whole % parts:
        raise UserError(f"{key}={whole} does not divide over {parts_key}={parts}; use a multiple of {parts}.")


def _check_blocks(key: str, rows: int, block_key: str, block: int) -> None:
    if block < 0:
        raise UserError(f"{block_key}={block}; expected 1 or more, or 0 for all rows at once.")
    if block and rows > block:
        _divides(key, rows, block_key, block)


def check(config: ConfigDict) -> None:
    """Raises UserError for values that cannot work together."""
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value}; expected a finite number.")
    _choice("domain", config.domain, DOMAINS)
    _choice("overlong_prompts", config.overlong_prompts, ("drop", "cut", "keep"))
    _at_least(config, "max_prompt_length max_response_length log.every log.checkpoint_every", 1)
    _at_least(config, "log.ppo_checkpoint_every log.samples_every evaluate.batch_size", 1)
    for stage in ("pretrain", "sft", "reward"):
        section = config[stage]
        _at_least(config, f"{stage}.steps", 0)
        _at_least(config, f"{stage}.batch_size {stage}.length", 1)
        _check_blocks(f"{stage}.batch_size", section.batch_size, f"{stage}.microbatch", section.microbatch)
        _choice(f"{stage}.overlong", section.overlong, ("drop", "cut"))
        _choice(f"{stage}.optimizer.schedule", section.optimizer.schedule, SCHEDULES)
        _check_sources(stage, section.sources, section.weights)
        if section.steps and not section.sources:
            raise UserError(f"{stage}.steps={section.steps}, but {stage}.sources is empty; name a source.")
    if config.model.path and config.pretrain.steps:
        raise UserError("pretrain.steps is for models trained from scratch; set it to 0 or leave model.path empty.")
    _choice("ppo.judge", config.ppo.judge, JUDGES)
    _choice("value.init", config.value.init, ("reward", "sft"))
    _at_least(config, "reward.score_length", 0)
    _check_specs("reward.heldout", config.reward.heldout)
    _check_specs("evaluate.domain", config.evaluate.domain)
    _check_specs("evaluate.general", config.evaluate.general)
    _check_judge("evaluate.judge", config.evaluate.judge, "evaluate.domain", config.evaluate.domain)
    _check_judge("evaluate.general_judge", config.evaluate.general_judge, "evaluate.general", config.evaluate.general)
    _at_least(config, "evaluate.temperature evaluate.best_of evaluate.limit evaluate.examples ppo.iterations", 0)
    _at_least(config, "ppo.batch_size ppo.samples_per_prompt ppo.num_ppo_epochs ppo.num_minibatches", 1)
    for role in ("policy", "value"):
        _choice(f"ppo.{role}_optimizer.schedule", config.ppo[f"{role}_optimizer"].schedule, SCHEDULES)
    _check_ppo(config.ppo)
    _check_roles(config)


def check_given_reward(config: ConfigDict) -> None:
    """Refuses a run that trains no reward model and is given none; a plan, or another stage alone, needs none."""
    reward = config.reward
    if reward.steps:
        return
    if reward.init in ("sft", "scratch") and config.ppo.iterations:
        raise UserError(
            f"reward.steps=0 with reward.init={reward.init!r}: PPO would have no reward model; set reward.steps, or "
            "name the folder of a finished one in reward.init, which is then used as it is."
        )
    if reward.init not in ("sft", "scratch") and reward.lora.rank:
        raise UserError(f"reward.lora.rank={reward.lora.rank} with reward.steps=0: no adapter is trained; set it to 0.")


def doubts(config: ConfigDict) -> list[str]:
    """What is allowed but hardly meant, a sentence each, for whoever starts the run."""
    reward, ppo, said = config.reward, config.ppo, []
    if reward.steps and reward.init in ("sft", "scratch"):  # a folder's tokenizer may count otherwise
        said += short_reward(config)
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
    return said


def short_reward(config: ConfigDict) -> list[str]:
    """A sentence where the reward model does not learn from the longest answers that PPO lets it score."""
    longest = config.max_prompt_length + config.max_response_length
    if not config.ppo.iterations or config.reward.length >= longest:
        return []
    lost = {"drop": "are left out of its training", "cut": "lose their end in its training"}[config.reward.overlong]
    return [
        f"reward.length={config.reward.length} is below max_prompt_length + max_response_length={longest}: the longest "
        f"answers {lost}, and PPO will score them all the same; set reward.length={longest}."
    ]


def _check_roles(config: ConfigDict) -> None:
    for key, lora in (("sft", config.sft.lora), ("reward", config.reward.lora), ("ppo", config.ppo.lora)):
        _at_least(config, f"{key}.lora.rank", 0)
        if lora.alpha <= 0:
            raise UserError(f"{key}.lora.alpha={lora.alpha}; expected a number above 0.")
        unknown = [name for name in lora.targets if name not in LORA_TARGETS]
        if unknown or not lora.targets:
            raise UserError(f"{key}.lora.targets={lora.targets}; expected some of {', '.join(LORA_TARGETS)}.")
    _choice("value.trunk", config.value.trunk, ("own", "policy"))
    for key, section in (("model", config.model), ("reward.model", config.reward.model)):
        _choice(f"{key}.attention", section.attention, ATTENTIONS)
    _choice("model.param_dtype", config.model.param_dtype, PARAM_DTYPES)
    _choice("model.remat", config.model.remat, REMATS)
    adapted = config.reward.lora.rank and config.ppo.lora.rank
    if config.value.trunk == "policy" and config.value.vf_coef <= 0:
        raise UserError(f"value.vf_coef={config.value.vf_coef}; with value.trunk='policy' expected a number above 0.")
    if config.roles.shared_base and not adapted:
        raise UserError(
            f"roles.shared_base needs adapters: reward.lora.rank={config.reward.lora.rank} and "
            f"ppo.lora.rank={config.ppo.lora.rank} must both be above 0."
        )
    if config.roles.shared_base and config.reward.init != "sft":
        raise UserError(
            f"reward.init={config.reward.init!r}: with roles.shared_base the reward model is an adapter on "
            "ICE-Instruct; use reward.init='sft'."
        )
    if config.model.param_dtype == "int8" and config.ppo.iterations and not config.ppo.lora.rank:
        raise UserError(
            "model.param_dtype='int8' with ppo.lora.rank=0: the actor would not start as the int8 reference; "
            "use an adapter, or bfloat16."
        )
    for key in ("adapter", "hf_config"):
        if config.model[key] and not config.model.path:
            raise UserError(f"model.{key}={config.model[key]!r} belongs to a model; set model.path as well.")
    if config.model.param_dtype == "bfloat16" and config.ppo.iterations and not config.ppo.lora.rank:
        if config.model.dtype != "bfloat16":
            raise UserError(
                f"model.param_dtype='bfloat16' with model.dtype={config.model.dtype!r} and ppo.lora.rank=0: the actor "
                "would not start as the bfloat16 reference; use model.dtype='bfloat16' as well, or an adapter."
            )
    if config.value.trunk == "policy" and config.value.init != "reward":
        raise UserError(
            f"value.init={config.value.init!r} is for a critic with a trunk of its own; with value.trunk='policy' "
            "leave it out."
        )
    if config.sft.lora.rank and not config.model.path and not config.pretrain.steps:
        raise UserError("sft.lora.rank is for a base model that exists; set model.path, or pretrain one.")
    if config.reward.lora.rank and config.reward.init == "scratch":
        raise UserError("reward.lora.rank is for a trunk that exists; use another reward.init, or rank 0.")


def _check_ppo(ppo: ConfigDict) -> None:
    _check_sources("ppo", ppo.sources, ppo.weights)
    _check_sources("ppo.ptx", ppo.ptx.sources, ppo.ptx.weights)
    check_penalty(ppo.kl.kind, ppo.kl.into, ("ppo.kl.kind", "ppo.kl.into"))
    _choice("ppo.score.scale", ppo.score.scale, ("none", "reference", "running_std", "running_mean_std"))
    _choice("ppo.advantages", ppo.advantages, ("whiten", "mean", "none"))
    if ppo.iterations and not ppo.sources:
        raise UserError(f"ppo.iterations={ppo.iterations}, but ppo.sources is empty; name a source of prompts.")
    if ppo.temperature <= 0:
        raise UserError(f"ppo.temperature={ppo.temperature}; sampling needs a temperature above 0.")
    if ppo.top_k < 0 or not 0 < ppo.top_p <= 1 or not 0 <= ppo.min_p <= 1:
        raise UserError(
            f"ppo.top_k={ppo.top_k}, ppo.top_p={ppo.top_p}, ppo.min_p={ppo.min_p}; "
            "expected top_k >= 0, 0 < top_p <= 1 and 0 <= min_p <= 1."
        )
    _choice("ppo.cache_dtype", ppo.cache_dtype, CACHE_DTYPES)
    if ppo.rollout_slots < 0:
        raise UserError(f"ppo.rollout_slots={ppo.rollout_slots}; expected 1 or more, or 0 for all responses at once.")
    _divides("ppo.rollout_slots", ppo.rollout_slots, "ppo.samples_per_prompt", ppo.samples_per_prompt)
    rows = ppo.batch_size * ppo.samples_per_prompt
    _divides("ppo.batch_size * samples_per_prompt", rows, "ppo.num_minibatches", ppo.num_minibatches)
    minibatch = rows // ppo.num_minibatches
    _check_blocks("a minibatch of ppo.batch_size * samples_per_prompt", minibatch, "ppo.microbatch", ppo.microbatch)
    _check_blocks("ppo.batch_size * samples_per_prompt", rows, "ppo.score_batch", ppo.score_batch)
    if ppo.ptx.coef:
        _divides("ppo.ptx.batch_size", ppo.ptx.batch_size, "ppo.num_minibatches", ppo.num_minibatches)
        blocks = max(minibatch // ppo.microbatch, 1) if ppo.microbatch else 1
        _divides("ppo.ptx.batch_size / num_minibatches", ppo.ptx.batch_size // ppo.num_minibatches,
            "the blocks of ppo.microbatch in a minibatch", blocks)  # fmt: skip
        if not ppo.ptx.sources:
            raise UserError(f"ppo.ptx.coef={ppo.ptx.coef}, but ppo.ptx.sources is empty; name a source.")
    if 0 < ppo.dual_clip <= 1 or ppo.dual_clip < 0:
        raise UserError(f"ppo.dual_clip={ppo.dual_clip}; expected a value above 1, or 0 for off.")
    if ppo.kl.adaptive and min(ppo.kl.coef, ppo.kl.target, ppo.kl.horizon) <= 0:
        raise UserError(
            f"ppo.kl.coef={ppo.kl.coef}, ppo.kl.target={ppo.kl.target}, ppo.kl.horizon={ppo.kl.horizon}: an adaptive "
            "coefficient needs all three above 0; for a fixed one, or none, set ppo.kl.adaptive=false."
        )
    if ppo.kl.adaptive and rows >= 5 * ppo.kl.horizon:
        raise UserError(f"ppo.kl.horizon={ppo.kl.horizon} is too short for {rows} responses; use {rows} or more.")
