"""The programs of a run, as its stages compile them, on abstract arguments."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.parallel.rollout import as_computed, moved_to_rollout, rollout_layout
from icegrt_jax.parallel.sharding import batch_sharding
from icegrt_jax.parallel.steps import step_program
from icegrt_jax.plan import shapes
from icegrt_jax.plan.costs import Decoding
from icegrt_jax.sampling import compiled_sampler, sequence_keys
from icegrt_jax.sampling.sampler import prompts_at_a_time
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
      weights: what a decode step computes with, abstract.
      decoding: how often the loops of a sampler run when every response has its full length; None for others.
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
    weights: Any = None
    decoding: Decoding | None = None


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
    """The way to the rollout's layout, the sampler, the check before the first update, score and update."""
    ppo, state = config.ppo, shapes.placed(shapes.ppo_state(config, models), mesh)
    rows = ppo.batch_size * ppo.samples_per_prompt
    verdicts = (jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=batch_sharding(mesh)),)
    verdicts = verdicts if _reads_text(models) else ()
    sampling, rollout = _sampling(config, mesh, state)
    rollout = shapes.split_rows(rollout, mesh, rows)
    _, experience, _ = jax.eval_shape(score, state, rollout, *verdicts)
    experience = shapes.split_rows(experience, mesh, rows)
    if ppo.ptx.coef:
        ids = (IDS, ppo.ptx.batch_size, ppo.ptx.length)
        experience = experience.replace(
            ptx=shapes.batch(mesh, tokens=ids, segment_ids=ids, positions=ids, loss_mask=(MASK, *ids[1:]))
        )
    blocks = ppo.score_batch or rows
    minibatch = rows // ppo.num_minibatches
    common = {
        "stage": "ppo", "batch_key": "ppo.batch_size", "rows": rows, "params": _held(state), "model": models.policy,
        "length": config.max_response_length,
    }  # fmt: skip
    return [
        *(dataclasses.replace(program, params=_held(state)) for program in sampling),
        Program("first check", lower=_within(mesh, disagreement, state, rollout), resident=(state, rollout),
            block=blocks, repeats=0, **common),
        Program("score", lower=_lower_step(score, mesh, state, rollout, *verdicts), resident=(state, rollout),
            block=blocks, **common),
        Program("ppo update", lower=_lower_step(ppo_update, mesh, state, experience), resident=(state, experience),
            block=min(ppo.microbatch or minibatch, minibatch), **common),
    ]  # fmt: skip


def _reads_text(models: shapes.Models) -> bool:
    """Whether the reward model must have a tokenizer of its own: another vocabulary than the policy's."""
    return models.reward.vocab_size != models.policy.vocab_size


def _sampling(config: ConfigDict, mesh: Mesh, state: TrainState) -> tuple[list[Program], Any]:
    """The programs of a rollout, as the stage runs them, and the abstract rollout."""
    ppo, model = config.ppo, state.model("policy")
    rows, new = ppo.batch_size * ppo.samples_per_prompt, config.max_response_length
    policy = shapes.placed(jax.eval_shape(lambda state: state.full("policy"), state), mesh)
    layout = rollout_layout(mesh, model, policy, config.mesh.rollout_tensor)
    copy, programs = policy, []
    common = {
        "stage": "ppo", "batch_key": "ppo.batch_size", "rows": rows, "params": {}, "model": None, "block": rows,
        "length": new,
    }  # fmt: skip
    if mesh.shape["fsdp"] > 1 or mesh.shape["tensor"] > 1:
        move = functools.partial(moved_to_rollout.lower, dtype=model.dtype, mesh=mesh, rollout=layout)
        copy = jax.eval_shape(functools.partial(as_computed, dtype=model.dtype), policy)
        copy = shapes.placed(copy, layout)
        programs.append(Program("to rollout", lower=functools.partial(move, policy), resident=(state,), **common))

    asked = shapes.split_rows({
        "keys": jax.eval_shape(lambda key: sequence_keys(key, 0, rows), jax.random.key(0)),
        "tokens": jax.ShapeDtypeStruct((ppo.batch_size, config.max_prompt_length), IDS),
        "mask": jax.ShapeDtypeStruct((ppo.batch_size, config.max_prompt_length), MASK),
    }, layout, None)  # fmt: skip
    static = {
        "model": model, "config": ppo_stage.sampler_config(config, **TOKENS), "num_samples": ppo.samples_per_prompt,
        "slots": ppo.rollout_slots,
    }  # fmt: skip
    arguments = (asked["keys"], copy, asked["tokens"], asked["mask"])
    with jax.set_mesh(layout):
        rollout = jax.eval_shape(functools.partial(compiled_sampler, **static), *arguments)
    slots = min(ppo.rollout_slots or rows, rows)
    at_a_time = prompts_at_a_time(ppo.batch_size, ppo.samples_per_prompt, slots)
    decoding = Decoding(steps=-(-rows // slots) * (new - 1), refills=-(-ppo.batch_size // at_a_time))
    programs.append(Program(
        "rollout", lower=_within(layout, compiled_sampler, *arguments, **static), resident=(state, copy, asked),
        weights=copy, decoding=decoding, **common,
    ))  # fmt: skip
    return programs, rollout


def _within(mesh: Mesh, jitted, *arguments, **static) -> Callable[[], jax.stages.Lowered]:
    def lower():
        with jax.set_mesh(mesh):
            return jitted.lower(*arguments, **static)

    return lower


def _lower_step(step, mesh: Mesh, state: TrainState, *arguments) -> Callable[[], jax.stages.Lowered]:
    return _within(mesh, step_program(step, mesh, state), state, *arguments)


def _held(state: TrainState) -> dict:
    return {"params": state.params, "opt_state": state.opt_state}
