"""The model folders that a run will read: whether they are there and whole, by their headers and not their numbers."""

import contextlib
from collections.abc import Mapping, Sequence

from icegrt_jax.config.options import ModelOptions, RewardOptions
from icegrt_jax.data.content import read_at
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf.config import is_scalar, read_hf_config, to_model_config
from icegrt_jax.models.hf.hub import local_folder
from icegrt_jax.models.hf.peft import load_adapter
from icegrt_jax.models.hf.tensors import check_tensors, open_tensors
from icegrt_jax.models.tree import abstract_params


def check(stages: Sequence[str], section: ModelOptions, reward: RewardOptions, lengths: Mapping[str, int]) -> list[str]:
    """Raises UserError for a folder that one of the stages could not read; returns warnings of rows too long for it.

    Args:
      section: of the policy's model.
      lengths: in tokens, of the rows that the policy reads, by their key.
    """
    warnings = []
    if section.path and {"sft", "evaluate"} & {*stages}:
        model, scalar = _folder("model.path", section.path)
        if scalar:
            raise UserError(f"model.path={section.path!r} holds a reward model; expected a language model.")
        if section.adapter:
            load_adapter(section.adapter, model)
        warnings += _too_long("model.path", section.path, model, lengths)
    if "reward" in stages and reward.init not in ("sft", "scratch"):
        model, _ = _folder("reward.init", reward.init)
        for number, path in enumerate(reward.ensemble_with):
            key = f"reward.ensemble_with[{number}]"
            if not _folder(key, path)[1]:
                raise UserError(f"{key}={path!r} has no scalar head; name a finished reward model.")
        rows = {"reward.length": reward.length, "reward.score_length": reward.score_length}
        warnings += _too_long("reward.init", reward.init, model, rows)
    elif "reward" in stages and section.path and reward.init == "sft":
        model, _ = _folder("model.path", section.path)
        warnings += _too_long("model.path", section.path, model, {"reward.length": reward.length})
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


def _too_long(key: str, path: str, model: ModelConfig, rows: Mapping[str, int]) -> list[str]:
    """A warning for each length in tokens that the model was not made for."""
    made_for = int(model.max_length * (model.rope_factor if model.rope_scaling == "linear" else 1))
    return [
        f"{name}={length} is beyond the {made_for} tokens (max_position_embeddings) that {key}={path!r} was made for."
        for name, length in rows.items()
        if length > made_for
    ]
