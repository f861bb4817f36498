"""The programs of a run, as its stages compile them, on abstract arguments."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.parallel.sharding import batch_sharding
from icegrt_jax.parallel.steps import step_program
from icegrt_jax.plan import shapes
from icegrt_jax.sampling import compiled_sampler, sequence_keys
from icegrt_jax.stages import ppo as ppo_stage
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.startup import disagreement
from icegrt_jax.training.state import TrainState
from icegrt_jax.training.updates import reward_update, sft_update

TOKENS = {"eos_ids": (2,), "pad_id": 0}  # which ids they are changes no program
MASK = jnp.bool_
IDS = jnp.int32


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program of a run.

    Attributes:
      name: such as "ppo update".
      stage: whose it is.
      batch_key: the config key of its number of rows, and `rows` what it is now.
      lower: traces it.
      resident: abstract arrays that are on the devices while it runs, its arguments among them.
      params: the abstract parameters and optimizer states among them, for the checks.
      model: whose vocabulary its logits have; None without logits.
      block: rows whose logits are wanted at a time, all chips.
      length: tokens of a row that have logits.
      repeats: runs per PPO iteration, or per step of the stage; 0 for a program that runs once.
    """

    name: str
    stage: str
    batch_key: str
    rows: int
    lower: Callable[[], jax.stages.Lowered]
    resident: Any
    params: Any
    model: ModelConfig | None
    block: int
    length: int
    repeats: int = 1


def run_programs(config: ConfigDict, mesh: Mesh, models: shapes.Models, answers: int) -> list[Program]:
    """Every program of the stages that the config has; `answers`: of a ranked prompt."""
    programs = []
    for stage in ("pretrain", "sft"):
        if config[stage].steps:
            programs.append(_sft(config, mesh, models, stage))
    if config.reward.steps:
        programs.append(_reward(config, mesh, models, answers))
    if config.ppo.iterations:
        programs += ppo_programs(config, mesh, models)
    return programs


def _sft(config: ConfigDict, mesh: Mesh, models: shapes.Models, stage: str) -> Program:
    section, state = config[stage], shapes.placed(shapes.supervised_state(config, stage, models), mesh)
    rows, length = section.batch_size, section.length
    ids = (IDS, rows, length)
    batch = shapes.batch(mesh, tokens=ids, segment_ids=ids, positions=ids, loss_mask=(MASK, rows, length))
    return Program(
        f"{stage} update", stage, f"{stage}.batch_size", rows, _lower_step(sft_update, mesh, state, batch),
        (state, batch), _held(state), models.policy, section.microbatch or rows, length,
    )  # fmt: skip


def _reward(config: ConfigDict, mesh: Mesh, models: shapes.Models, answers: int) -> Program:
    section, state = config.reward, shapes.placed(shapes.supervised_state(config, "reward", models), mesh)
    rows = section.batch_size
    tokens, each = (rows, answers, section.length), (rows, answers)
    batch = shapes.batch(
        mesh, tokens=(IDS, *tokens), mask=(MASK, *tokens), ranks=(jnp.float32, *each), valid=(MASK, *each)
    )
    return Program(
        "reward update", "reward", "reward.batch_size", rows, _lower_step(reward_update, mesh, state, batch),
        (state, batch), _held(state), None, section.microbatch or rows, section.length,
    )  # fmt: skip


def ppo_programs(config: ConfigDict, mesh: Mesh, models: shapes.Models) -> list[Program]:
    """The sampler, the check before the first update, score and update."""
    ppo, state = config.ppo, shapes.placed(shapes.ppo_state(config, models), mesh)
    prompts, width, length = ppo.batch_size, config.max_prompt_length, config.max_response_length
    rows = prompts * ppo.samples_per_prompt
    as_text = _reads_text(models)

    asked = shapes.batch(mesh, tokens=(IDS, prompts, width), mask=(MASK, prompts, width))
    sampler, rollout = _sampler(config, mesh, state, asked)
    rollout = shapes.split_rows(rollout, mesh, rows)
    verdicts = (jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=batch_sharding(mesh)),) if as_text else ()
    _, experience, _ = jax.eval_shape(score, state, rollout, *verdicts)
    experience = shapes.split_rows(experience, mesh, rows)
    if ppo.ptx.coef:
        ids = (IDS, ppo.ptx.batch_size, ppo.ptx.length)
        experience = experience.replace(
            ptx=shapes.batch(mesh, tokens=ids, segment_ids=ids, positions=ids, loss_mask=(MASK, *ids[1:]))
        )

    def program(name, lower, arguments, block, repeats=1):
        return Program(
            name, "ppo", "ppo.batch_size", rows, lower, (state, *arguments), _held(state), models.policy, block, length,
            repeats,
        )  # fmt: skip

    blocks = ppo.score_batch or rows
    return [
        program("rollout", sampler, (asked,), rows),
        program("first check", _within(mesh, disagreement, state, rollout), (rollout,), blocks, repeats=0),
        program("score", _lower_step(score, mesh, state, rollout, *verdicts), (rollout,), blocks),
        program("ppo update", _lower_step(ppo_update, mesh, state, experience), (experience,),
            min(ppo.microbatch or rows, rows // ppo.num_minibatches)),
    ]  # fmt: skip


def _reads_text(models: shapes.Models) -> bool:
    """Whether the reward model must have a tokenizer of its own: another vocabulary than the policy's."""
    return models.reward.vocab_size != models.policy.vocab_size


def _sampler(config: ConfigDict, mesh: Mesh, state: TrainState, asked: dict):
    """What lowers the sampler, and the abstract rollout that it returns."""
    count = config.ppo.batch_size * config.ppo.samples_per_prompt
    keys = jax.eval_shape(lambda key: sequence_keys(key, 0, count), jax.random.key(0))
    policy = shapes.placed(jax.eval_shape(lambda state: state.full("policy"), state), mesh)
    static = {
        "model": state.model("policy"),
        "config": ppo_stage.sampler_config(config, **TOKENS),
        "num_samples": config.ppo.samples_per_prompt,
    }
    arguments = (keys, policy, asked["tokens"], asked["mask"])

    def shape():
        with jax.set_mesh(mesh):
            return jax.eval_shape(lambda *args: compiled_sampler(*args, **static), *arguments)

    return _within(mesh, compiled_sampler, *arguments, **static), shape()


def _within(mesh: Mesh, jitted, *arguments, **static) -> Callable[[], jax.stages.Lowered]:
    def lower():
        with jax.set_mesh(mesh):
            return jitted.lower(*arguments, **static)

    return lower


def _lower_step(step, mesh: Mesh, state: TrainState, *arguments) -> Callable[[], jax.stages.Lowered]:
    return _within(mesh, step_program(step, mesh, state), state, *arguments)


def _held(state: TrainState) -> dict:
    return {"params": state.params, "opt_state": state.opt_state}
