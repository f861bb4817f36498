"""Responses from a policy, by one compiled program."""

from icegrt_jax.sampling.draw import SamplerConfig
from icegrt_jax.sampling.rollout import Packings, Rollout, Rows
from icegrt_jax.sampling.sampler import compiled_sampler, sample_responses, sequence_keys

__all__ = [
    "Packings", "Rollout", "Rows", "SamplerConfig", "compiled_sampler", "sample_responses", "sequence_keys",
]  # fmt: skip
