"""The models that a stage begins with: a base model, or what an earlier stage left."""

import dataclasses
import pathlib
from typing import Any

import jax

from icegrt_jax.config.choices import Kept
from icegrt_jax.config.options import ModelOptions, ShapeOptions
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params
from icegrt_jax.models.hf.config import read_hf_config, to_model_config
from icegrt_jax.models.hf.folder import load_hf
from icegrt_jax.models.hf.hub import local_folder
from icegrt_jax.models.tree import abstract_params
from icegrt_jax.models.vocabulary import check_tokenizer
from icegrt_jax.runs.rundir import Run
from icegrt_jax.sharding.rules import tree_shardings
from icegrt_jax.training.restore import finished as finished_stage
from icegrt_jax.training.restore import load_role, with_peft


def scratch_config(section: ShapeOptions, vocab_size: int, max_length: int) -> ModelConfig:
    """The shape that a model section describes."""
    shape = {field.name: getattr(section, field.name) for field in dataclasses.fields(ShapeOptions)}
    return ModelConfig(vocab_size=vocab_size, max_length=max_length, **shape)


def config_in(path: str, section: ShapeOptions) -> ModelConfig:
    """Shape of the model in a folder by its config.json, computed as the section says."""
    folder = local_folder(path)
    config = to_model_config(read_hf_config(folder), folder, scan_layers=section.scan_layers, dtype=section.dtype)
    return _computed_as(config, section)


def _computed_as(config: ModelConfig, section: ShapeOptions) -> ModelConfig:
    return dataclasses.replace(config, remat=section.remat, attention=section.attention)


def _check_planned(section: ModelOptions) -> None:
    """Refuses a model whose parameters have other shapes than `model.hf_config` says: a plan was of another model."""
    planned, found = (config_in(path, section) for path in (section.hf_config, section.path))
    if abstract_params(planned) != abstract_params(found):
        raise UserError(
            f"model.hf_config={section.hf_config!r} describes another model than model.path={section.path!r} "
            f"({planned.num_params:,} and {found.num_params:,} parameters); name its own config.json, or leave "
            "model.hf_config empty."
        )


def base_model(run: Run, section: ModelOptions) -> tuple[ModelConfig, dict]:
    """The model before the run's first stage: from a Hugging Face folder or newly initialised."""
    if section.path:
        if section.hf_config:
            _check_planned(section)
        check_tokenizer(run.tokenizer, config_in(section.path, section).vocab_size, f"model.path={section.path!r}")
        config, params = load_folder(run, section.path, section)
        if "head" in params:
            raise UserError(f"model.path={section.path!r} holds a reward model; expected a language model.")
        return config, with_peft(config, params, section.adapter)
    config = scratch_config(section, run.tokenizer.vocab_size, run.lengths.total)
    return config, placed_init(run, config, run.key("base"))


def load_folder(run: Run, path: str, section: ShapeOptions) -> tuple[ModelConfig, dict]:
    """The model of a Hugging Face folder, read to where it will live; it has a scalar `head` if theirs has one."""
    config, params = load_hf(
        path,
        scan_layers=section.scan_layers,
        dtype=section.dtype,
        shardings=lambda tree: tree_shardings(tree, run.mesh),
    )
    return _computed_as(config, section), params


def placed_init(run: Run, config: ModelConfig, key: jax.Array, *, scalar_head: bool = False) -> dict:
    """New parameters, made where they will live."""
    shardings = tree_shardings(abstract_params(config, scalar_head=scalar_head), run.mesh)
    init = jax.jit(init_params, static_argnames=("config", "scalar_head"), out_shardings=shardings)
    return init(key, config, scalar_head=scalar_head)


def stage_params(run: Run, stage: str, role: str, use: Kept | None = None) -> tuple[ModelConfig, Any]:
    """Shape and complete float32 parameters of one role as `stage` left them; `use` as of `load_role`."""
    done = finished_stage(run.folder(stage))
    if role in done["models"] and done.get("same_tokenizer", True):
        check_tokenizer(run.tokenizer, done["models"][role]["vocab_size"], f"{run.folder(stage)} with the run's own")
    return load_role(run.folder(stage), role, run.mesh, use)


def before_sft(run: Run, section: ModelOptions, *, pretrained: bool) -> tuple[ModelConfig, dict]:
    """The policy that ICE-Instruct starts from: what the run has pretrained, or the base model."""
    return stage_params(run, "pretrain", "policy") if pretrained else base_model(run, section)


def kept_before_sft(section: ModelOptions, *, pretrained: bool) -> dict[str, str]:
    """Where that model is kept, as a `PartRecord` says it."""
    return {"stage": "pretrain", "role": "policy"} if pretrained else kept_path(section.path, section.adapter)


def kept_path(path: str, adapter: str = "") -> dict[str, str]:
    """A Hugging Face folder as a `PartRecord` says it: found again from any working directory.

    Of a hub name it is the downloaded snapshot: the hub may have other weights tomorrow.
    """
    kept = {"path": str(local_folder(path).absolute())}
    return {**kept, "adapter": str(pathlib.Path(adapter).expanduser().absolute())} if adapter else kept
