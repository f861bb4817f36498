"""The programs of the supervised stages and of the reward stage, as these compile them, on abstract arguments."""

import jax.numpy as jnp
from jax.sharding import Mesh

from icegrt_jax.config.choices import ParamDtype
from icegrt_jax.config.options import RewardOptions, SupervisedOptions
from icegrt_jax.plan import shapes
from icegrt_jax.plan.program import IDS, MASK, Program, held, lower_step
from icegrt_jax.runs.reward_model import ranking_update
from icegrt_jax.training.updates import sft_update


def supervised_program(
    stage: str, section: SupervisedOptions, mesh: Mesh, models: shapes.Models, frozen: ParamDtype
) -> Program:
    """The update of pretrain or sft."""
    state = shapes.placed(shapes.supervised_state(section, models, frozen), mesh)
    rows, length = section.batch_size, section.length
    ids = (IDS, rows, length)
    batch = shapes.batch(mesh, tokens=ids, segment_ids=ids, positions=ids, loss_mask=(MASK, rows, length))
    return Program(
        f"{stage} update", stage, f"{stage}.batch_size", rows, lower_step(sft_update, mesh, state, batch),
        (state, batch), held(state), models.policy, section.microbatch or rows, length,
    )  # fmt: skip


def reward_program(
    section: RewardOptions, mesh: Mesh, models: shapes.Models, frozen: ParamDtype, answers: int
) -> Program:
    """The update of the reward stage; `answers`: of a ranked prompt."""
    state = shapes.placed(shapes.reward_state(section, models, frozen), mesh)
    rows = section.batch_size
    of_all = rows * section.members
    tokens, each = (of_all, answers, section.length), (of_all, answers)
    starts = {"start": (IDS, *each)} if section.lm_coef else {}
    batch = shapes.batch(
        mesh, tokens=(IDS, *tokens), mask=(MASK, *tokens), ranks=(jnp.float32, *each), valid=(MASK, *each), **starts
    )
    return Program(
        "reward update", "reward", "reward.batch_size", rows, lower_step(ranking_update(section), mesh, state, batch),
        (state, batch), held(state), None, section.microbatch or rows, section.length,
    )  # fmt: skip
