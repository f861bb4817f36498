"""The state of a run: one tree that goes into every update step and comes out of it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from icegrt_jax.config import estimators
from icegrt_jax.config.choices import KLKind, KLPlace, ScoreBaseline, ScoreEnsemble, ScoreScale, ScoreShape
from icegrt_jax.config.options import (
    DrawOptions,
    KLOptions,
    PPOOptions,
    ReplayOptions,
    ScoreOptions,
    UpdateOptions,
)
from icegrt_jax.config.penalty import check_penalty
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.lora import LoRAConfig, with_adapter
from icegrt_jax.models.members import Members
from icegrt_jax.rl import AdaptiveKL, ScoreStats
from icegrt_jax.sampling import Rows
from icegrt_jax.training import warmup
from icegrt_jax.training.optimizers import OptimizerConfig, make_optimizer


@dataclasses.dataclass(frozen=True)
class RewardRule:
    """What becomes of the values of one of the user's reward functions. Hashable."""

    weight: float = 1.0  # in the sum that is the score; 0: the values are only looked at
    scale: ScoreScale = "none"  # as `PPOConfig.score_scale`; clipped alike where it is not "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig(UpdateOptions):
    """What the PPO steps are compiled with: `UpdateOptions`, and of the other groups what the steps need. Hashable."""

    temperature: float = DrawOptions.temperature
    vf_coef: float = 0.0  # weight of the value loss where the critic is a head on the policy; 0: it has its own trunk
    ptx_coef: float = ReplayOptions.coef
    kl_kind: KLKind = KLOptions.kind
    kl_in: KLPlace = KLOptions.into
    kl_early_stop: float = KLOptions.early_stop
    reference_temperature: float = KLOptions.reference_temperature
    score_scale: ScoreScale = ScoreOptions.scale
    score_clip: float = ScoreOptions.clip
    score_baseline: ScoreBaseline = ScoreOptions.baseline
    score_shape: ScoreShape = ScoreOptions.shape
    score_ensemble: ScoreEnsemble = ScoreOptions.ensemble
    score_ensemble_coef: float = ScoreOptions.ensemble_coef
    eos_penalty: float = ScoreOptions.eos_penalty
    length_penalty: float = ScoreOptions.length_penalty
    length_target: int = ScoreOptions.length_target
    reward_model: float = 1.0  # weight of the reward model's scaled score; 0: there is no reward model
    rewards: tuple[tuple[str, RewardRule], ...] = ()  # of the user's reward functions, by name
    group_size: int = PPOOptions.samples_per_prompt  # answers to a prompt, one after another in a rollout

    def __post_init__(self):
        check_penalty(self.kl_kind, self.kl_in, ("kl_kind", "kl_in"))
        estimators.check_group(self, self.group_size, "group_size")

    @property
    def penalty_temperature(self) -> float:
        """That of the reference in the KL penalty."""
        return self.reference_temperature or self.temperature

    @property
    def critic(self) -> bool:
        """Whether there is one."""
        return estimators.ESTIMATORS[self.estimator].critic


@dataclasses.dataclass(frozen=True)
class Part:
    """How a role's tree is completed: put onto the tree of role `base`, its adapter scaled by `lora`. Hashable."""

    base: str
    lora: LoRAConfig | None = None


class TrainState(struct.PyTreeNode):
    """Everything that changes during a run, and the static description of what it is.

    step: i32[], iterations or updates done.
    params: {"policy", "value", "reward", "reference"}, each a parameter tree; a stage holds the roles it uses. A role
      may be a part only, put onto another role's tree: an adapter, or a head. A frozen tree that is nobody's own
      is called "base", and an output matrix of a language model beside a reward model "unembedding". Several reward
      models are `models.members.Members`.
    opt_state: {role: optax state} for the trained roles.
    kl: the controller of the KL coefficient. score_stats: moments of the reward model's raw scores.
    reward_stats: {name: moments of the raw values} of the user's reward functions.
    members: {"mean", "std"}: f32[M], of several reward models the moments of each one's raw scores of ICE-Instruct's
      answers; of one nothing.
    source_stats: {source of prompts: moments of its raw scores} where each is scaled by its own; else nothing.
    ema: {"policy": the average of the actor over the iterations}, nothing without `PPOConfig.ema`.
    drawn: {"batches": i32[], of prompts drawn so far} where others are drawn in the place of some; else nothing.
    warmup: of the critic, see `training.warmup`; nothing without `PPOConfig.value_flat`.
    key: key[], of the order of minibatches; never used up, only folded into. Responses are sampled with others.
    models: ((role, ModelConfig), …). optimizers: ((role, OptimizerConfig), …). ppo: `PPOConfig`.
    parts: ((role, `Part`), …) for the roles whose tree is put onto another's.
    microbatch: rows of a batch differentiated at a time, their gradients added up; 0: all.
    axis_name: the mapped axis when replicated by pmap, else None.
    """

    step: jax.Array
    params: dict[str, dict]
    opt_state: dict[str, Any]
    kl: AdaptiveKL
    score_stats: ScoreStats
    key: jax.Array
    models: tuple[tuple[str, ModelConfig], ...] = struct.field(pytree_node=False)
    optimizers: tuple[tuple[str, OptimizerConfig], ...] = struct.field(pytree_node=False)
    ppo: PPOConfig = struct.field(pytree_node=False, default=PPOConfig())
    parts: tuple[tuple[str, Part], ...] = struct.field(pytree_node=False, default=())
    microbatch: int = struct.field(pytree_node=False, default=0)
    reward_stats: dict[str, ScoreStats] = struct.field(default_factory=dict)
    members: dict[str, jax.Array] = struct.field(default_factory=dict)
    source_stats: dict[str, ScoreStats] = struct.field(default_factory=dict)
    ema: dict[str, dict] = struct.field(default_factory=dict)
    warmup: dict[str, jax.Array] = struct.field(default_factory=dict)
    drawn: dict[str, jax.Array] = struct.field(default_factory=dict)
    axis_name: str | None = struct.field(pytree_node=False, default=None)

    def model(self, role: str) -> ModelConfig:
        return dict(self.models)[role]

    def optimizer(self, role: str):
        return make_optimizer(dict(self.optimizers)[role])

    def full(self, role: str) -> dict:
        """The complete parameters of a role; several reward models as `Members`, for whoever reads scalars."""
        part = dict(self.parts).get(role)
        own = self.params[role]
        if isinstance(own, Members) and part is not None:
            return own.replace(base=self.full(part.base), lora=part.lora)
        return own if part is None else with_adapter(self.full(part.base), own, part.lora)


def create_state(
    key: jax.Array,
    params: dict[str, dict],
    models: dict[str, ModelConfig],
    optimizers: dict[str, OptimizerConfig],
    *,
    ppo: PPOConfig = PPOConfig(),
    parts: dict[str, Part] | None = None,
    kl: AdaptiveKL | None = None,
    score_stats: ScoreStats | None = None,
    microbatch: int = 0,
    redraw: bool = False,
    members: dict[str, jax.Array] | None = None,
    source_stats: dict[str, ScoreStats] | None = None,
) -> TrainState:
    """The state at step 0, with an optimizer state for each role in `optimizers`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state={role: make_optimizer(config).init(params[role]) for role, config in optimizers.items()},
        kl=kl or AdaptiveKL.create(0.0, adaptive=False),
        score_stats=score_stats or ScoreStats.create(),
        key=key,
        models=tuple(sorted(models.items())),
        optimizers=tuple(sorted(optimizers.items())),
        ppo=ppo,
        parts=tuple(sorted((parts or {}).items())),
        microbatch=microbatch,
        reward_stats={name: ScoreStats.create() for name, _ in ppo.rewards},
        members=members or {},
        source_stats=source_stats or {},
        ema={"policy": jax.tree.map(jnp.copy, params["policy"])} if ppo.ema else {},
        warmup=warmup.start(ppo.value_flat) if ppo.value_flat else {},
        drawn={"batches": jnp.zeros((), jnp.int32)} if redraw else {},
    )


def with_ema(state: TrainState) -> TrainState:
    """The average of the actor one iteration on (arXiv 2406.16768, section 3.1); of an adapter that of its factors."""
    decay = state.ppo.ema
    move = lambda old, now: decay * old + (1.0 - decay) * now
    return state.replace(ema={role: jax.tree.map(move, old, state.params[role]) for role, old in state.ema.items()})


def averaged(state: TrainState) -> TrainState:
    """The state with the average of the actor in its place, where there is one."""
    return state.replace(params={**state.params, **state.ema})


def trained(state: TrainState) -> TrainState:
    """What a checkpoint holds: everything but the frozen roles, which are those without an optimizer."""
    return state.replace(params={role: state.params[role] for role, _ in state.optimizers})


def with_trained(state: TrainState, restored: TrainState) -> TrainState:
    """A restored `trained` state with the frozen roles of `state`."""
    return restored.replace(params={**state.params, **restored.params})


class Opinions(struct.PyTreeNode):
    """What one of the user's reward functions says of a rollout.

    values: f32[B], raw; anything where not known. known: bool[B], False where it has no opinion.
    """

    values: jax.Array
    known: jax.Array


class Experience(struct.PyTreeNode):
    """A scored rollout, ready for updates; also one minibatch of it.

    prompts: i32[B, P], left-padded. prompt_mask: bool[B, P].
    responses: i32[B, T], right-padded. mask: bool[B, T], up to and including the first EOS.
    old_logprobs, ref_logprobs, values, advantages, returns: f32[B, T], 0 where not mask; values and returns are None
      without a critic.
    keep: bool[B], the responses that count in the policy's loss; None: all.
    ptx: None, or an SFT batch whose leading axis is split into minibatches as well.
    kl_coef: f32[B], of the KL in the loss, in units of the advantages, the same in every row; None: the controller's.
    rows: that the responses of any one minibatch fit into, with their prompts; None: P + T tokens for each.
    """

    prompts: jax.Array
    prompt_mask: jax.Array
    responses: jax.Array
    mask: jax.Array
    old_logprobs: jax.Array
    ref_logprobs: jax.Array
    values: jax.Array | None
    advantages: jax.Array
    returns: jax.Array | None
    ptx: dict | None = None
    kl_coef: jax.Array | None = None
    keep: jax.Array | None = None
    rows: Rows | None = struct.field(pytree_node=False, default=None)
