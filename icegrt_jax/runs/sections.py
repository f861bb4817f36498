"""Sections of the options as what the maths takes."""

import dataclasses

from icegrt_jax.config.options import DrawOptions, LoRAOptions, OptimizerOptions
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.models.lora import LoRAConfig
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.training.optimizers import OptimizerConfig


def optimizer_config(section: OptimizerOptions, total_steps: int) -> OptimizerConfig:
    """An optimizer with the length of its schedule."""
    return OptimizerConfig(total_steps=total_steps, **dataclasses.asdict(section))


def lora_config(section: LoRAOptions) -> LoRAConfig | None:
    """The adapter; None where its rank is 0."""
    return LoRAConfig(**dataclasses.asdict(section)) if section.rank else None


def sampler_config(
    section: DrawOptions, max_new_tokens: int, *, eos_ids: tuple[int, ...], pad_id: int
) -> SamplerConfig:
    """How PPO samples, and whoever wants answers like its own; `section` may be all of PPO's."""
    drawn = {field.name: getattr(section, field.name) for field in dataclasses.fields(DrawOptions)}
    return SamplerConfig(max_new_tokens=max_new_tokens, eos_ids=eos_ids, pad_id=pad_id, **drawn)


def sampler_for(tokenizer: ChatTokenizer, section: DrawOptions, max_new_tokens: int) -> SamplerConfig:
    """The same, ended and padded by a tokenizer's ids."""
    return sampler_config(section, max_new_tokens, eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id)
