"""The model folders that a run will read: whether they are there and whole, by their headers and not their numbers."""

import contextlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from icegrt_jax.data.content import read_at
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf.config import is_scalar, read_hf_config, to_model_config
from icegrt_jax.models.hf.hub import local_folder
from icegrt_jax.models.hf.peft import load_adapter
from icegrt_jax.models.hf.tensors import check_tensors, open_tensors
from icegrt_jax.models.tree import abstract_params


def check(config: ConfigDict, stages: Sequence[str]) -> list[str]:
    """Raises UserError for a folder that one of the stages could not read; returns warnings of rows too long for it."""
    section, warnings = config.model, []
    answered = config.max_prompt_length + config.max_response_length
    if section.path and {"sft", "evaluate"} & {*stages}:
        model, scalar = _folder("model.path", section.path)
        if scalar:
            raise UserError(f"model.path={section.path!r} holds a reward model; expected a language model.")
        if section.adapter:
            load_adapter(section.adapter, model)
        rows = {"max_prompt_length + max_response_length": answered, "sft.length": config.sft.length}
        if config.ppo.iterations and config.ppo.ptx.coef:
            rows["ppo.ptx.length"] = config.ppo.ptx.length
        warnings += _too_long("model.path", section.path, model, rows)
    if "reward" in stages and config.reward.init not in ("sft", "scratch"):
        model, _ = _folder("reward.init", config.reward.init)
        rows = {"reward.length": config.reward.length, "reward.score_length": config.reward.score_length}
        warnings += _too_long("reward.init", config.reward.init, model, rows)
    elif "reward" in stages and section.path and config.reward.init == "sft":
        model, _ = _folder("model.path", section.path)
        warnings += _too_long("model.path", section.path, model, {"reward.length": config.reward.length})
    return warnings


def _folder(key: str, path: str) -> tuple[ModelConfig, bool]:
    """Shape of the model in a folder, and whether it has a scalar head; its tensors are there in that shape."""
    with read_at(f"{key}={path!r}"), contextlib.ExitStack() as stack:
        folder = local_folder(path)
        raw = read_hf_config(folder)
        config = to_model_config(raw, folder, scan_layers=False, dtype="float32")
        tensors = open_tensors(folder, stack)
        check_tensors(folder, config, abstract_params(config, scalar_head=is_scalar(raw)), tensors)
    return config, is_scalar(raw)


def _too_long(key: str, path: str, model: ModelConfig, rows: dict[str, int]) -> list[str]:
    """A warning for each length in tokens that the model was not made for."""
    made_for = int(model.max_length * (model.rope_factor if model.rope_scaling == "linear" else 1))
    return [
        f"{name}={length} is beyond the {made_for} tokens (max_position_embeddings) that {key}={path!r} was made for."
        for name, length in rows.items()
        if length > made_for
    ]
