"""The XLA-compiled sampler."""

from icegrt_jax.sampling.sampler import Rollout, SamplerConfig, compiled_sampler, sample_responses, sequence_keys

__all__ = ["Rollout", "SamplerConfig", "compiled_sampler", "sample_responses", "sequence_keys"]
