"""The roles of a stage: which trees there are, and which are put onto which. PPO's at the first iteration:

    full parameters   four trees: the actor and a frozen copy (the reference), the critic and a frozen copy (reward)
    ppo.lora          two frozen trees, reference and reward; actor and critic are adapters on them
    shared_base       one frozen tree; actor, critic and reward are adapters on it, the reference is it as it is
    value.trunk       "policy": the critic is a head on the actor's hidden states, in any of the three
    ppo.estimator     of those without a critic: any of these without it

In all of them the actor starts as the reference.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from icegrt_jax import files
from icegrt_jax.config.choices import ParamDtype
from icegrt_jax.config.estimators import ESTIMATORS
from icegrt_jax.config.options import PPOOptions, UpdateOptions, ValueOptions
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import trunk
from icegrt_jax.models.lora import LoRAConfig, init_adapter
from icegrt_jax.models.members import Members
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.rl import AdaptiveKL, ScoreStats
from icegrt_jax.runs import rundir, score_scale, sections, stage_models
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.restore import PartRecord, load_own
from icegrt_jax.training.state import Part, PPOConfig, RewardRule, TrainState, create_state

INSTRUCT = {"stage": "sft", "role": "policy"}  # as a `PartRecord` names it


@dataclasses.dataclass
class Roles:
    """The four roles while they are put together.

    params: {role: tree}. models: {role: shape}. parts: what is put onto what, for the update steps; records: the same
    for the trained roles, as the finished stage tells it.
    """

    params: dict[str, Any]
    models: dict[str, ModelConfig]
    parts: dict[str, Part] = dataclasses.field(default_factory=dict)
    records: dict[str, PartRecord] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Source:
    """What the roles are put together from: of a run, the finished stages; of a plan, shapes only.

    ppo, value: their options. reward_model: its weight; 0: there is none.
    shared_base: one frozen tree for all. frozen: dtype of frozen trees.
    whole: (stage, role) -> shape and complete float32 parameters, of several reward models `Members`.
    own: (stage, role) -> shape, the tree that was trained, and its record, see `training.restore.load_own`.
    key: stream -> key[]. adapter_key: role -> key[].
    actor: gives the tree that the actor starts with, of the round before; None: it starts as the reference.
    """

    ppo: PPOOptions
    value: ValueOptions
    reward_model: float
    shared_base: bool
    frozen: ParamDtype
    whole: Callable[[str, str], tuple[ModelConfig, Any]]
    own: Callable[[str, str], tuple[ModelConfig, Any, PartRecord | None]]
    key: Callable[[str], jax.Array]
    adapter_key: Callable[[str], jax.Array]
    actor: Callable[[], dict] | None = None


def finished_stages(
    run: rundir.Run,
    ppo: PPOOptions,
    value: ValueOptions,
    *,
    reward_model: float = 1.0,
    shared_base: bool,
    frozen: ParamDtype,
    before: pathlib.Path | None = None,
) -> Source:
    """The source of a run; its actor goes on from the policy of the round `before`, a workdir, where that is given."""
    own = lambda stage, role: load_own(run.folder(stage), role, run.mesh)
    whole = functools.partial(stage_models.stage_params, run)
    actor = None if before is None else lambda: load_own(before / "ppo", "policy", run.mesh)[1]
    return Source(ppo, value, reward_model, shared_base, frozen, whole, own, run.key, run.adapter_key, actor)


def whole_or_adapter(
    frozen: ParamDtype, role: str, params: dict, lora: LoRAConfig | None, key: jax.Array, source: dict[str, str]
) -> tuple[dict[str, dict], dict[str, Part], dict[str, PartRecord]]:
    """What a stage that trains one role holds: all its parameters, or a new adapter on a frozen base.

    Args:
      frozen: dtype of a frozen base.
      params: complete; a scalar `head` is trained in full beside the adapter.
      key: of the adapter.
      source: where `params` are kept, see `PartRecord`.

    Returns:
      The trees, and for `create_state` and `rundir.finish` what is put onto what.
    """
    if lora is None:
        return {role: params}, {}, {}
    base = {name: tree for name, tree in params.items() if name != "head"}
    adapter = init_adapter(key, base, lora, head=params.get("head"))
    trees = {"base": stored_as(base, frozen), role: adapter}
    return trees, {role: Part("base", lora)}, {role: PartRecord(lora, source, frozen)}


def initial_state(run: rundir.Run, source: Source) -> tuple[TrainState, dict[str, PartRecord]]:
    """The state before the first iteration, and what `done.json` says of actor and critic that are parts."""
    done = files.read_json(run.folder("reward") / "done.json") if source.reward_model else {}
    scale = score_scale.read_scale(run.folder("reward")) if source.reward_model else None
    state, records = first_state(source, done, scale)
    # New leaves are made on the first device; a checkpoint would put them back there and nowhere else.
    return shard_tree(state, run.mesh), records


def first_state(
    run: Source, done: dict, scale: score_scale.Scale | None = None
) -> tuple[TrainState, dict[str, PartRecord]]:
    """PPO's state before the first iteration, from a run's stages or from shapes alone, and records of roles in parts.

    `done` has the mean and spread that the reward stage measured, `ref_mean` and `ref_std`; nothing without a reward
    model. `scale` is that of several.
    """
    ppo = run.ppo
    of_first = done if scale is None else {"ref_mean": float(scale.mean[0]), "ref_std": float(scale.std[0])}
    roles = _frozen_and_actor(run)
    if ESTIMATORS[ppo.estimator].critic:
        _add_critic(run, roles, of_first)
    updates = ppo.num_ppo_epochs * ppo.num_minibatches  # of an iteration
    optimizers = {
        "policy": sections.optimizer_config(ppo.policy_optimizer, updates * (ppo.iterations - ppo.value_warmup)),
        "value": sections.optimizer_config(ppo.value_optimizer, updates * ppo.iterations),
    }
    state = create_state(
        run.key("minibatches"),
        roles.params,
        roles.models,
        {role: optimizer for role, optimizer in optimizers.items() if role in roles.models},
        ppo=ppo_config(ppo, run.value, run.reward_model),
        kl=AdaptiveKL.create(ppo.kl.coef, target=ppo.kl.target, horizon=ppo.kl.horizon, adaptive=ppo.kl.adaptive),
        score_stats=(
            ScoreStats.create(done.get("ref_mean", 0.0), done.get("ref_std", 1.0))
            if scale is None else scale.stats(ppo.score)
        ),
        parts=roles.parts,
        microbatch=ppo.microbatch,
        redraw=bool(ppo.redraw),
        members=score_scale.members_state(scale),
        source_stats={name: ScoreStats.create() for name in ppo.sources} if ppo.score.by_source else None,
    )  # fmt: skip
    return state, roles.records


def ppo_config(ppo: PPOOptions, value: ValueOptions, reward_model: float = 1.0) -> PPOConfig:
    """The part of the options that the update steps are compiled with; `reward_model` is its weight."""
    rule = lambda name: RewardRule(ppo.reward_weights.get(name, 1.0), ppo.reward_scales.get(name, "none"))
    return PPOConfig(
        **{field.name: getattr(ppo, field.name) for field in dataclasses.fields(UpdateOptions)},
        temperature=ppo.temperature,
        vf_coef=value.vf_coef if value.trunk == "policy" else 0.0,
        ptx_coef=ppo.ptx.coef,
        kl_kind=ppo.kl.kind,
        kl_in=ppo.kl.into,
        kl_early_stop=ppo.kl.early_stop,
        reference_temperature=ppo.kl.reference_temperature,
        score_scale=ppo.score.scale,
        score_clip=ppo.score.clip,
        score_baseline=ppo.score.baseline,
        score_shape=ppo.score.shape,
        score_ensemble=ppo.score.ensemble,
        score_ensemble_coef=ppo.score.ensemble_coef,
        eos_penalty=ppo.score.eos_penalty,
        length_penalty=ppo.score.length_penalty,
        length_target=ppo.score.length_target,
        reward_model=reward_model,
        rewards=tuple((name, rule(name)) for name in sorted(ppo.rewards)),
        group_size=ppo.samples_per_prompt,
    )


def _frozen_and_actor(run: Source) -> Roles:
    """Reference, reward model where there is one, and actor."""
    frozen, lora = run.frozen, sections.lora_config(run.ppo.lora)
    model, instruct = run.whole("sft", "policy")
    base = "base" if run.shared_base else "reference"
    roles = Roles({base: stored_as(instruct, frozen)}, {"policy": model})
    if run.shared_base:
        roles.params["reference"], roles.parts["reference"] = {}, Part("base")
    if run.reward_model and run.shared_base:
        roles.models["reward"], roles.params["reward"], record = run.own("reward", "reward")
        assert record is not None, "checked at the start: on a shared base the reward model is an adapter"
        roles.parts["reward"] = Part("base", record.lora)
    elif run.reward_model:
        roles.models["reward"], reward = run.whole("reward", "reward")
        roles.params["reward"] = score_scale.stored(reward, frozen)
    if lora:
        adapter = run.actor() if run.actor else init_adapter(run.adapter_key("policy"), instruct, lora)
        _add_part(roles, "policy", adapter, base, lora, INSTRUCT, frozen)
    elif run.actor:
        roles.params["policy"] = run.actor()
    else:
        roles.params["policy"] = instruct if frozen != "float32" else _copy(instruct)
    return roles


def _add_critic(run: Source, roles: Roles, done: dict) -> None:
    """The critic: ICE-Reward with its head in the units of the normalised score, ICE-Instruct or a head on the actor.

    Of several reward models it starts as the first one.

    A new head is of zeros, the mean of the normalised scores of ICE-Instruct's answers: the first values are near
    the first returns either way.
    """
    frozen, lora = run.frozen, sections.lora_config(run.ppo.lora)
    width = roles.models["policy"].d_model
    zeros = {"kernel": jnp.zeros((width, 1), jnp.float32), "bias": jnp.zeros((1,), jnp.float32)}
    if run.value.trunk == "policy":
        roles.models["value"] = roles.models["policy"]
        _add_part(roles, "value", {"head": zeros}, "policy", None, {"stage": "ppo", "role": "policy"}, "float32")
        return
    if run.value.init == "sft":
        roles.models["value"], instruct = run.whole("sft", "policy")
        if lora:
            adapter = init_adapter(run.adapter_key("value"), trunk(instruct), lora, head=zeros)
            base = "base" if run.shared_base else "reference"
            _add_part(roles, "value", adapter, base, lora, INSTRUCT, frozen)
        else:
            roles.params["value"] = {**trunk(instruct), "head": zeros}
        return
    roles.models["value"] = roles.models["reward"]
    if run.shared_base:
        reward_lora = roles.parts["reward"].lora
        reward = roles.params["reward"]
        value = _centred(reward.member(0) if isinstance(reward, Members) else _copy(reward), done)
        _add_part(roles, "value", value, "base", reward_lora, INSTRUCT, frozen)
        return
    _, reward = run.whole("reward", "reward")
    value = _centred(reward.whole(0) if isinstance(reward, Members) else reward, done)
    if lora:
        adapter, base = init_adapter(run.adapter_key("value"), trunk(value), lora, head=value["head"]), "reward"
        if isinstance(reward, Members):  # none of them is held by itself
            roles.params["base"], base = stored_as(reward.whole(0), frozen), "base"
        _add_part(roles, "value", adapter, base, lora, {"stage": "reward", "role": "reward"}, frozen)
    else:
        roles.params["value"] = value


def _add_part(
    roles: Roles, role: str, own: dict, base: str, lora: LoRAConfig | None, source: dict[str, str], dtype: str
) -> None:
    roles.params[role] = own
    roles.parts[role] = Part(base, lora)
    roles.records[role] = PartRecord(lora, source, dtype)


def _copy(tree: dict) -> dict:
    """Buffers of its own: the state is donated, and no buffer may be in it twice."""
    return jax.tree.map(jnp.copy, tree)


def _centred(value: dict, done: dict) -> dict:
    """The critic's head in the units of the normalised score, so that it starts near the returns."""
    std = done["ref_std"] or 1.0
    head = {"kernel": value["head"]["kernel"] / std, "bias": (value["head"]["bias"] - done["ref_mean"]) / std}
    return {**value, "head": head}
