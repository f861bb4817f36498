"""Responses from a policy, by one compiled program."""

from icegrt_jax.sampling.draw import SamplerConfig
from icegrt_jax.sampling.sampler import Rollout, compiled_sampler, sample_responses, sequence_keys

__all__ = ["Rollout", "SamplerConfig", "compiled_sampler", "sample_responses", "sequence_keys"]
