"""Whether the batches of the stages divide over the mesh."""

import pathlib

from jax.sharding import Mesh
from ml_collections import ConfigDict

from icegrt_jax.sharding.mesh import check_batch, make_mesh


def check_batches(config: ConfigDict, workdir: pathlib.Path, *stages: str) -> None:
    """Refuses a mesh that does not fit, or over which a batch of a stage still to be run does not divide.

    Called before `start`: nothing has been written yet.
    """
    mesh = make_mesh(**config.mesh)
    for stage in stages:
        if (pathlib.Path(workdir) / stage / "done.json").is_file():
            continue
        check_batch(f"{stage}.batch_size", config[stage].batch_size, mesh)
        check_batch(f"{stage}.microbatch", config[stage].microbatch, mesh)
        if stage == "ppo":
            check_batch("ppo.score_batch", config.ppo.score_batch, mesh)
            check_batch("ppo.rollout_slots", config.ppo.rollout_slots, mesh)
            check_minibatches(config.ppo, mesh)


def check_minibatches(ppo: ConfigDict, mesh: Mesh) -> None:
    """Refuses minibatches of responses or of replay that do not divide over the mesh."""
    rows, parts = ppo.batch_size * ppo.samples_per_prompt, ppo.num_minibatches
    if ppo.ptx.coef:
        check_batch("ppo.ptx.batch_size", ppo.ptx.batch_size, mesh)
        check_batch("ppo.ptx.batch_size / num_minibatches", ppo.ptx.batch_size // parts, mesh)
        blocks = max(rows // parts // ppo.microbatch, 1) if ppo.microbatch else 1
        replay = ppo.ptx.batch_size // parts // blocks
        check_batch("ppo.ptx.batch_size / num_minibatches, for each ppo.microbatch", replay, mesh)
    check_batch("ppo.batch_size * samples_per_prompt / num_minibatches", rows // parts, mesh)
