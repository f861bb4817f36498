"""Responses to one batch of prompts, sampled on a run's mesh."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from icegrt_jax.config.options import PPOOptions
from icegrt_jax.hosts import sync
from icegrt_jax.runs import scoring
from icegrt_jax.runs.judging import Questions
from icegrt_jax.runs.kept import Place, identity
from icegrt_jax.runs.rewards import Rewards
from icegrt_jax.runs.session import Session
from icegrt_jax.sampling import Rollout, SamplerConfig, compiled_sampler, sequence_keys
from icegrt_jax.sampling.layout import to_rollout
from icegrt_jax.sharding import host_rows
from icegrt_jax.sharding.put import shard_batch
from icegrt_jax.training.buckets import fitted
from icegrt_jax.training.state import TrainState

ARRAYS = ("prompts", "prompt_mask", "responses", "mask", "logprobs", "finished")  # of a Rollout


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """What samples and scores the responses of a run.

    Attributes:
      asked: the prompts that a batch's `index` counts, and their judges.
      reader: of a reward model with a tokenizer of its own, else None.
      rewards: the user's reward functions.
      layout: the mesh that the policy samples on.
      sizes: of packed rows, see `training.buckets.fitted`.
      keep: where the responses are kept until a checkpoint stands behind them; None: nowhere.
    """

    run: Session
    ppo: PPOOptions
    asked: Questions
    reader: scoring.Reader | None
    rewards: Rewards
    sampler: SamplerConfig
    layout: Mesh
    sizes: dict[str, Any]
    keep: Place | None

    def sample(self, state: TrainState, batch: dict, number: int, step: int) -> Rollout:
        """Responses to the `number`-th batch of prompts of the run, in iteration `step`.

        Sequence i of the run has its own key.
        """
        if self.keep is None:
            return self._drawn(state, batch, number)
        model, params = state.model("policy"), state.full("policy")
        asked = [host_rows.all_rows(batch[name], self.run.mesh) for name in ("tokens", "mask")]
        of = identity(params, model, self.run.key("ppo"), self.sampler, number, self.ppo.samples_per_prompt, *asked)
        drawn: list[Rollout] = []

        def draw() -> dict[str, np.ndarray]:
            drawn.append(self._drawn(state, batch, number))
            return {name: sync.fetch(getattr(drawn[0], name)) for name in ARRAYS}

        arrays = self.keep.found(of, ARRAYS, draw, step)
        if drawn:
            return drawn[0]
        if sync.is_main():
            print(f"ppo  the responses of iteration {step} are there: sampled before the run was stopped", flush=True)
        prompts, prompt_mask, responses, mask, logprobs, finished = (arrays[name] for name in ARRAYS)
        temperature = self.sampler.temperature
        whole = Rollout(prompts, prompt_mask, responses, mask, logprobs, finished, temperature=temperature)
        return shard_batch(whole, self.run.mesh)

    def _drawn(self, state: TrainState, batch: dict, number: int) -> Rollout:
        run, ppo = self.run, self.ppo
        count = ppo.batch_size * ppo.samples_per_prompt
        keys = sequence_keys(run.key("ppo"), number * count, count)
        model, params = state.model("policy"), state.full("policy")
        params = to_rollout(params, model, run.mesh, self.layout)  # a copy that lives until the end of this function
        tokens, mask = host_rows.place_rows((batch["tokens"], batch["mask"]), run.mesh)
        keys, tokens, mask = shard_batch((keys, tokens, mask), self.layout)
        with jax.set_mesh(self.layout):
            rollout = compiled_sampler(
                keys, params, tokens, mask, model=model, config=self.sampler,
                num_samples=ppo.samples_per_prompt, slots=ppo.rollout_slots,
            )  # fmt: skip
        return shard_batch(rollout, run.mesh)

    def sources(self, state: TrainState, names: Sequence[str]) -> jax.Array | None:
        """Of which source the prompt of each response is, as `score` has it; None where none is scaled by its own."""
        if not state.source_stats:
            return None
        number = {name: i for i, name in enumerate(sorted(state.source_stats))}
        return shard_batch(np.array([number[name] for name in names], np.int32), self.run.mesh)

    def packed(self, state: TrainState, rollout: Rollout) -> Rollout:
        """With the rows that it is packed into."""
        return fitted(state, rollout, **self.sizes)
