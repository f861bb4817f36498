"""The models that a stage begins with: a base model, or what an earlier stage left."""

import dataclasses
import pathlib

import jax
from ml_collections import ConfigDict

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


def scratch_config(section: ConfigDict, vocab_size: int, max_length: int) -> ModelConfig:
    """The shape described by a model section of the config."""
    shape = {k: v for k, v in section.items() if k not in ("path", "hf_config", "adapter", "param_dtype")}
    return ModelConfig(vocab_size=vocab_size, max_length=max_length, **shape)


def folder_config(section: ConfigDict) -> ModelConfig:
    """Shape of the model at `model.path` from its config.json alone; no weights are looked at.

    Where the path is not here `model.hf_config` stands for it: a run can be planned before its model is fetched.
    """
    here = pathlib.Path(section.path).expanduser().exists()
    return _config_in(section.path if here or not section.hf_config else section.hf_config, section)


def _config_in(path: str, section: ConfigDict) -> ModelConfig:
    folder = local_folder(path)
    config = to_model_config(read_hf_config(folder), folder, scan_layers=section.scan_layers, dtype=section.dtype)
    return dataclasses.replace(config, remat=section.remat, attention=section.attention)


def _check_planned(section: ConfigDict) -> None:
    """Refuses a model whose parameters have other shapes than `model.hf_config` says: a plan was of another model."""
    planned, found = (_config_in(path, section) for path in (section.hf_config, section.path))
    if abstract_params(planned) != abstract_params(found):
        raise UserError(
            f"model.hf_config={section.hf_config!r} describes another model than model.path={section.path!r} "
            f"({planned.num_params:,} and {found.num_params:,} parameters); name its own config.json, or leave "
            "model.hf_config empty."
        )


def base_model(run: Run) -> tuple[ModelConfig, dict]:
    """The model before the run's first stage: from a Hugging Face folder or newly initialised."""
    section = run.config.model
    if section.path:
        if section.hf_config:
            _check_planned(section)
        check_tokenizer(run.tokenizer, _config_in(section.path, section).vocab_size, f"model.path={section.path!r}")
        config, params = load_folder(run, section.path, section)
        if "head" in params:
            raise UserError(f"model.path={section.path!r} holds a reward model; expected a language model.")
        return config, with_peft(config, params, section.adapter)
    length = run.config.max_prompt_length + run.config.max_response_length
    config = scratch_config(section, run.tokenizer.vocab_size, length)
    return config, placed_init(run, config, run.key("base"))


def load_folder(run: Run, path: str, section: ConfigDict) -> tuple[ModelConfig, dict]:
    """The model of a Hugging Face folder, read to where it will live; it has a scalar `head` if theirs has one."""
    config, params = load_hf(
        path,
        scan_layers=section.scan_layers,
        dtype=section.dtype,
        shardings=lambda tree: tree_shardings(tree, run.mesh),
    )
    return dataclasses.replace(config, remat=section.remat, attention=section.attention), params


def placed_init(run: Run, config: ModelConfig, key: jax.Array, *, scalar_head: bool = False) -> dict:
    """New parameters, made where they will live."""

    def init(key):
        return init_params(key, config, scalar_head=scalar_head)

    return jax.jit(init, out_shardings=tree_shardings(jax.eval_shape(init, key), run.mesh))(key)


def stage_params(run: Run, stage: str, role: str) -> tuple[ModelConfig, dict]:
    """Shape and complete float32 parameters of one role as `stage` left them."""
    done = finished_stage(run.folder(stage))
    if role in done["models"] and done.get("same_tokenizer", True):
        check_tokenizer(run.tokenizer, done["models"][role]["vocab_size"], f"{run.folder(stage)} with the run's own")
    return load_role(run.folder(stage), role, run.mesh)


def policy_before(run: Run, stage: str) -> tuple[ModelConfig, dict]:
    """The policy that `stage` starts from: the latest finished one before it, or the base model."""
    for earlier in {"sft": ("pretrain",), "pretrain": ()}[stage]:
        if run.config[earlier].steps:
            return stage_params(run, earlier, "policy")
    return base_model(run)


def before_sft(run: Run) -> dict[str, str]:
    """Where the model that ICE-Instruct starts from is kept, as a `PartRecord` says it."""
    if run.config.pretrain.steps:
        return {"stage": "pretrain", "role": "policy"}
    return kept_path(run.config.model.path, run.config.model.adapter)


def kept_path(path: str, adapter: str = "") -> dict[str, str]:
    """A Hugging Face folder as a `PartRecord` says it: found again from any working directory.

    Of a hub name it is the downloaded snapshot: the hub may have other weights tomorrow.
    """
    kept = {"path": str(local_folder(path).absolute())}
    return {**kept, "adapter": str(pathlib.Path(adapter).expanduser().absolute())} if adapter else kept
