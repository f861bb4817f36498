"""The models and states of a run as shapes and shardings: nothing is allocated, no weight and no record is read."""

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from icegrt_jax.config.choices import ParamDtype
from icegrt_jax.config.options import (
    ModelOptions,
    PPOOptions,
    RewardOptions,
    SFTOptions,
    ShapeOptions,
    SupervisedOptions,
    ValueOptions,
)
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params, new_head
from icegrt_jax.models.lora import init_adapter
from icegrt_jax.models.members import Members, stacked
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.runs import reward_model, roles, score_scale, sections, stage_models, supervised
from icegrt_jax.sharding.rules import batch_sharding, spec_of, split_axes, tree_shardings
from icegrt_jax.training.members import together
from icegrt_jax.training.restore import SCALAR_ROLES, PartRecord
from icegrt_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Models:
    """Shapes of what the stages leave: `policy` (base model and ICE-Instruct) and `reward`."""

    policy: ModelConfig
    reward: ModelConfig


def models_of(model: ModelOptions, reward: RewardOptions, *, vocab_size: int, max_length: int) -> Models:
    """The models of a run, from its options and config.json files.

    Args:
      vocab_size, max_length: of a policy trained from scratch.
    """
    policy = _policy(model, vocab_size, max_length)
    if reward.init == "sft":
        return Models(policy, policy)
    if reward.init == "scratch":
        return Models(policy, stage_models.scratch_config(reward.model, policy.vocab_size, reward.length))
    return Models(policy, _in_folder("reward.init", reward.init, reward.model))


def _policy(model: ModelOptions, vocab_size: int, max_length: int) -> ModelConfig:
    if not model.path:
        return stage_models.scratch_config(model, vocab_size, max_length)
    if pathlib.Path(model.path).expanduser().is_dir() or not model.hf_config:
        return _in_folder("model.path", model.path, model)
    return _in_folder("model.hf_config", model.hf_config, model)


def _in_folder(key: str, path: str, section: ShapeOptions) -> ModelConfig:
    if not pathlib.Path(path).expanduser().is_dir():
        raise UserError(
            f"{key}={path!r} is not a folder here; a plan downloads no model: set model.hf_config to a folder with "
            "its config.json, or fetch it first."
        )
    return stage_models.config_in(path, section)


def supervised_state(section: SupervisedOptions, models: Models, frozen: ParamDtype) -> TrainState:
    """The abstract state of pretrain or sft before its first update; `frozen`: dtype of a base under an adapter."""

    def build(key):
        lora = sections.lora_config(section.lora) if isinstance(section, SFTOptions) else None
        params = init_params(key, models.policy)
        return supervised.first_state(section, frozen, key, models.policy, params, lora, {}, key)[0]

    return jax.eval_shape(build, jax.random.key(0))


def reward_state(section: RewardOptions, models: Models, frozen: ParamDtype) -> TrainState:
    """The abstract state of the reward stage before its first update."""

    def build(key):
        language = init_params(key, models.reward, scalar_head=section.init == "scratch")
        params, unembedding = reward_model.with_head(section, models.reward, language, key, "reward.init")
        state = reward_model.first_state(section, frozen, key, models.reward, params, {}, key, unembedding)[0]
        return state if section.members == 1 else together([state] * section.members)

    return jax.eval_shape(build, jax.random.key(0))


def ppo_state(
    ppo: PPOOptions,
    value: ValueOptions,
    models: Models,
    *,
    reward_model: float = 1.0,
    shared_base: bool,
    frozen: ParamDtype,
    reward: RewardOptions,
) -> TrainState:
    """The abstract state of PPO before its first iteration: all roles, put together as the stage does.

    Args:
      reward_model: its weight; 0: there is none.
      frozen: dtype of frozen trees.
      reward: of the reward model: its adapter, where it is held as one, and how many there are.
    """

    def build(key):
        lora = sections.lora_config(reward.lora)
        if lora and reward.members > reward.scorers:  # of mean weights
            lora = dataclasses.replace(lora, rank=lora.rank * reward.members)
        scale = None
        if reward_model and reward.scorers > 1:
            zeros: np.ndarray = np.zeros((1, reward.scorers), np.float32)
            scale = score_scale.Scale(zeros[0], zeros[0], zeros)
        several = lambda tree: tree if scale is None else Members(stacked([tree] * reward.scorers))

        def whole(stage, role):
            model = models.reward if role == "reward" else models.policy
            if role == "reward" and scale is not None and lora:
                base, adapters = init_params(key, model), several(adapter())
                return model, adapters.replace(base=stored_as(base, frozen), lora=lora)
            tree = init_params(key, model, scalar_head=role in SCALAR_ROLES)
            return model, several(tree) if role == "reward" else tree

        def adapter():
            assert lora is not None  # a shared base has adapters only
            return init_adapter(key, init_params(key, models.reward), lora, head=new_head(key, models.reward))

        def own(stage, role):
            return models.reward, several(adapter()), PartRecord(lora, roles.INSTRUCT, frozen)

        source = roles.Source(
            ppo, value, reward_model, shared_base, frozen, whole, own, lambda stream: key, lambda role: key
        )
        return roles.first_state(source, {"ref_mean": 0.0, "ref_std": 1.0}, scale)[0]

    return jax.eval_shape(build, jax.random.key(0))


def placed(tree, mesh: Mesh):
    """Abstract parameters or a state with the shardings of the table."""
    return with_shardings(tree, tree_shardings(tree, mesh))


def with_shardings(tree, shardings):
    """The abstract tree with a tree of shardings on it."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def batch(mesh: Mesh, **arrays: tuple) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch split over the mesh, of {name: (dtype, *shape)}."""
    sharding = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, (dtype, *shape) in arrays.items()}


def split_rows(tree, mesh: Mesh, rows: int | None):
    """Abstract arrays with the leading axis split over the mesh as far as it divides; only of `rows`, if given."""

    def place(x):
        is_batch = x.ndim > 0 and rows in (None, x.shape[0])
        axes = split_axes(x.shape[0], "rows", mesh) if is_batch else ()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec_of([axes])))

    return jax.tree.map(place, tree)


def bytes_per_chip(tree) -> int:
    """Of abstract arrays with shardings, without the padding of layouts."""
    return sum(math.prod(shard_shape(leaf)) * itemsize(leaf) for leaf in jax.tree.leaves(tree))


def shard_shape(leaf) -> tuple[int, ...]:
    """One chip's part of an abstract array."""
    return leaf.sharding.shard_shape(leaf.shape)


def itemsize(leaf) -> int:
    """Bytes of one element of an abstract array; a random key has two words."""
    return 8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
