"""Sections of a config as what the maths takes."""

from ml_collections import ConfigDict

from icegrt_jax.models.lora import LoRAConfig
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.training.optimizers import OptimizerConfig


def optimizer_config(section: ConfigDict, total_steps: int) -> OptimizerConfig:
    """An optimizer section of the config, with the length of its schedule."""
    return OptimizerConfig(total_steps=total_steps, **section)


def lora_config(section: ConfigDict) -> LoRAConfig | None:
    """The adapter that a `lora` section of the config describes; None where its rank is 0."""
    return LoRAConfig(**{**section, "targets": tuple(section.targets)}) if section.rank else None


def sampler_config(config: ConfigDict, *, eos_ids: tuple[int, ...], pad_id: int) -> SamplerConfig:
    """How PPO samples."""
    ppo = config.ppo
    return SamplerConfig(
        max_new_tokens=config.max_response_length,
        temperature=ppo.temperature,
        top_k=ppo.top_k,
        top_p=ppo.top_p,
        min_p=ppo.min_p,
        eos_ids=eos_ids,
        pad_id=pad_id,
        cache_dtype=ppo.cache_dtype,
    )
