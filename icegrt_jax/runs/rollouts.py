"""Responses to one batch of prompts, sampled on a run's mesh."""

import jax
from jax.sharding import Mesh

from icegrt_jax.config.options import PPOOptions
from icegrt_jax.runs.session import Session
from icegrt_jax.sampling import Rollout, SamplerConfig, compiled_sampler, sequence_keys
from icegrt_jax.sampling.layout import to_rollout
from icegrt_jax.sharding import host_rows
from icegrt_jax.sharding.put import shard_batch
from icegrt_jax.training.state import TrainState


def sample(
    run: Session, ppo: PPOOptions, state: TrainState, batch: dict, number: int, sampler: SamplerConfig, layout: Mesh
) -> Rollout:
    """Responses to the `number`-th batch of prompts of the run; sequence i of the run has its own key."""
    count = ppo.batch_size * ppo.samples_per_prompt
    keys = sequence_keys(run.key("ppo"), number * count, count)
    model, params = state.model("policy"), state.full("policy")
    params = to_rollout(params, model, run.mesh, layout)  # a copy that lives until the end of this function
    tokens, mask = host_rows.place_rows((batch["tokens"], batch["mask"]), run.mesh)
    keys, tokens, mask = shard_batch((keys, tokens, mask), layout)
    with jax.set_mesh(layout):
        rollout = compiled_sampler(
            keys, params, tokens, mask, model=model, config=sampler,
            num_samples=ppo.samples_per_prompt, slots=ppo.rollout_slots,
        )  # fmt: skip
    return shard_batch(rollout, run.mesh)
