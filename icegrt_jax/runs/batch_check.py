"""Whether the batches of the stages divide over the mesh."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from icegrt_jax.config.options import MeshOptions, PPOOptions, RewardOptions, SupervisedOptions
from icegrt_jax.sharding.mesh import check_batch, make_mesh

Training = Mapping[str, SupervisedOptions | RewardOptions | PPOOptions]  # by stage


def of_batches(sections: Mapping[str, Any]) -> Training:
    """Of the sections of some stages those with batches."""
    return {stage: x for stage, x in sections.items() if isinstance(x, SupervisedOptions | RewardOptions | PPOOptions)}


def check_batches(options: MeshOptions, sections: Training, workdir: pathlib.Path) -> None:
    """Refuses a mesh that does not fit, or over which a batch of a stage still to be run does not divide.

    Called before `start`: nothing has been written yet.
    """
    done = lambda stage: (pathlib.Path(workdir) / stage / "done.json").is_file()
    due = {stage: section for stage, section in sections.items() if not done(stage)}
    check_rows(due, make_mesh(**dataclasses.asdict(options)))


def check_rows(sections: Training, mesh: Mesh) -> None:
    """Refuses batches that do not divide over a mesh: that of a run, or of a plan for other devices."""
    for stage, section in sections.items():
        check_batch(f"{stage}.batch_size", section.batch_size, mesh)
        check_batch(f"{stage}.microbatch", section.microbatch, mesh)
        if isinstance(section, PPOOptions):
            check_batch("ppo.score_batch", section.score_batch, mesh)
            check_batch("ppo.rollout_slots", section.rollout_slots, mesh)
            check_minibatches(section, mesh)


def check_minibatches(ppo: PPOOptions, mesh: Mesh) -> None:
    """Refuses minibatches of responses or of replay that do not divide over the mesh."""
    rows, parts = ppo.batch_size * ppo.samples_per_prompt, ppo.num_minibatches
    if ppo.ptx.coef:
        check_batch("ppo.ptx.batch_size", ppo.ptx.batch_size, mesh)
        check_batch("ppo.ptx.batch_size / num_minibatches", ppo.ptx.batch_size // parts, mesh)
        blocks = max(rows // parts // ppo.microbatch, 1) if ppo.microbatch else 1
        replay = ppo.ptx.batch_size // parts // blocks
        check_batch("ppo.ptx.batch_size / num_minibatches, for each ppo.microbatch", replay, mesh)
    check_batch("ppo.batch_size * samples_per_prompt / num_minibatches", rows // parts, mesh)
