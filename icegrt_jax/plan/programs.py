"""The programs of a run, as its stages compile them, on abstract arguments."""

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from icegrt_jax.plan import shapes
from icegrt_jax.plan.ppo_programs import ppo_programs
from icegrt_jax.plan.program import IDS, MASK, Program, held, lower_step
from icegrt_jax.training.updates import reward_update, sft_update


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
        f"{stage} update", stage, f"{stage}.batch_size", rows, lower_step(sft_update, mesh, state, batch),
        (state, batch), held(state), models.policy, section.microbatch or rows, length,
    )  # fmt: skip


def _reward(config: ConfigDict, mesh: Mesh, models: shapes.Models, answers: int) -> Program:
    section, state = config.reward, shapes.placed(shapes.supervised_state(config, "reward", models), mesh)
    rows = section.batch_size
    tokens, each = (rows, answers, section.length), (rows, answers)
    batch = shapes.batch(
        mesh, tokens=(IDS, *tokens), mask=(MASK, *tokens), ranks=(jnp.float32, *each), valid=(MASK, *each)
    )
    return Program(
        "reward update", "reward", "reward.batch_size", rows, lower_step(reward_update, mesh, state, batch),
        (state, batch), held(state), None, section.microbatch or rows, section.length,
    )  # fmt: skip
