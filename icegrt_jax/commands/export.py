"""`icegrt export`: the model of a finished stage as a folder for transformers, or its adapter as one for PEFT."""

import pathlib
from typing import Any

import jax

from icegrt_jax import commands
from icegrt_jax.config.choices import Kept
from icegrt_jax.config.convert import to_config
from icegrt_jax.config.options import Options
from icegrt_jax.config.rounds import with_rankings
from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import trunk
from icegrt_jax.models.hf import peft
from icegrt_jax.models.hf.card import ADAPTER, LANGUAGE_MODEL, SCORES
from icegrt_jax.models.hf.folder import new_folder, write_hf
from icegrt_jax.models.lora import merged
from icegrt_jax.models.members import Members
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.report import card
from icegrt_jax.runs import rundir, stage_models
from icegrt_jax.training.restore import PartRecord, finished, load_base, load_own

DEFAULT_ROLES = ("policy", "reward")  # the first that the stage has
BASE = "base"  # folder of an adapter's base, in that of the adapter


def main(
    config: Options,
    workdir: pathlib.Path,
    *,
    stage: str,
    role: str | None,
    out: str,
    dtype: str,
    adapter: bool,
    base: str,
    use: Kept | None = None,
    member: int = 0,
) -> None:
    """Writes the folder `out`: a causal language model, or for reward and value a sequence classifier with one label.

    Args:
      stage: whose model.
      role: policy, value or reward; by default the stage's policy, or its reward model.
      out: the folder, which appears whole or not at all.
      dtype: of the stored tensors.
      adapter: write the trained adapter alone, in PEFT's format and float32, and its base where nobody else has it.
      base: where PEFT will find the adapter's base; empty: where it is, or beside the adapter.
      use: the stage's last or best checkpoint; by default the one that its config says.
      member: which of several reward models, from 1 on; 0: there is one.
    """
    models = finished(workdir / stage)["models"]
    role = role or next(name for name in DEFAULT_ROLES if name in models)
    if role not in models:
        raise UserError(f"--role={role}: the {stage} stage has no such model; it has {', '.join(models)}.")
    if base and not adapter:
        raise UserError(f"--base={base}: only an adapter has a base; add --adapter, or leave it out.")
    names = [command.name for command in commands.leaving_models()]
    left = commands.TABLE[stage].leaves.get(role) or commands.Left(f"the {role} model of the {stage} stage")
    sections = {name: getattr(config, name, None) for name in names[: names.index(stage) + 1]}
    if "reward" in sections:
        sections["reward"] = with_rankings(config.reward, config.rounds, config.annotation.weight)
    told = card.Told(
        stage=stage, role=role, what=left.what, row=left.row, base=config.model, reward=config.reward,
        value=config.value, stages=sections,
        domain=config.domain, evaluate=config.evaluate, config=to_config(config).to_dict(),
    )  # fmt: skip
    run = rundir.start(config, config.lengths, config.mesh, workdir, compile_cache=config.log.compile_cache)
    if adapter:
        write_adapter(run, told, out, base, dtype, use, member)
    else:
        write_model(run, told, out, dtype, use, member)


def _check_member(params: Any, member: int) -> None:
    """Refuses several models where none is picked, and a number of none."""
    if member and not (isinstance(params, Members) and member <= params.count):
        count = params.count if isinstance(params, Members) else 1
        raise UserError(f"--member={member}: there {'is 1 model' if count == 1 else f'are {count} models'}.")
    if isinstance(params, Members) and not member:
        raise UserError(
            f"the stage has left {params.count} reward models, a folder holds one: name it, --member=1 to "
            f"{params.count}; reward.init and reward.ensemble_with take several folders."
        )


def write_model(run: rundir.Run, told: card.Told, out: str, dtype: str, use: Kept | None, member: int = 0) -> None:
    """Writes the complete model, for transformers."""
    stage, role = told.stage, told.role
    model, params = stage_models.stage_params(run, stage, role, use)
    _check_member(params, member)
    params = params.whole(member - 1) if isinstance(params, Members) else params
    tokenizer = _tokenizer(run, role)
    path = pathlib.Path(out).expanduser()
    with new_folder(path) as folder:
        write_hf(folder, model, params, tokenizer, dtype=dtype)
        load = LANGUAGE_MODEL if role == "policy" else SCORES
        load = load.format(folder=path.name, end=tokenizer.tokenizer.convert_ids_to_tokens(tokenizer.eos_id))
        card.write(folder, run.workdir, told, model, load)
    print(f"{out}: the {role} model of {stage}, {model.num_params} parameters as {dtype}")


def write_adapter(
    run: rundir.Run, told: card.Told, out: str, base: str, dtype: str, use: Kept | None, member: int = 0
) -> None:
    """Writes what the stage trained of the role, for PEFT."""
    stage, role = told.stage, told.role
    model, own, record = load_own(run.folder(stage), role, use=use)
    _check_member(own, member)
    own = own.member(member - 1) if isinstance(own, Members) else own
    if record is None or record.lora is None:
        raise UserError(f"--adapter: the {stage} stage trained the {role} model without one; leave the flag out.")
    if "adapter" in record.base:
        raise UserError(
            f"--adapter: its base is {record.base['path']} with the adapter {record.base['adapter']} merged in, which "
            "PEFT would not know; leave the flag out."
        )
    path = pathlib.Path(out).expanduser()
    kept = record.base.get("path") or f"the {record.base['role']} of {run.folder(record.base['stage'])}"
    named = base or _place(record, path)
    with new_folder(path) as folder:
        peft.write_adapter(folder, own, model, record.lora, named)
        if not base and "path" not in record.base:
            whole = read_base(run.folder(stage), model, own, record)
            write_hf(_made(folder / BASE), model, whole, _tokenizer(run, role), dtype=dtype)
            kept = f"{kept}, written to {path / BASE}"
        card.write(folder, run.workdir, told, model, _how_to_load(path, role, record, base))
    stored = "" if record.base_dtype == "float32" else f", trained with it stored as {record.base_dtype}"
    print(f"{out}: the {role} adapter of {stage}, rank {record.lora.rank}; its base is {kept}{stored}")


def read_base(folder: pathlib.Path, model: ModelConfig, own: dict, record: PartRecord) -> dict:
    """What the adapter was trained on, in float32; with a scalar head the one that goes with the adapter."""
    nothing = jax.tree_util.tree_map_with_path(lambda path, x: x * 0 if path[-1].key == "lora_b" else x, own)
    whole = merged(stored_as(load_base(folder, model, record, None), record.base_dtype), nothing, record.lora)
    return {**trunk(whole), "head": whole["head"]} if "head" in own else whole


def _place(record: PartRecord, path: pathlib.Path) -> str:
    """A path from anywhere, or a name on the hub."""
    if "path" not in record.base:
        return str((path / BASE).absolute())
    folder = pathlib.Path(record.base["path"]).expanduser()
    return str(folder.absolute()) if folder.exists() else record.base["path"]


def _how_to_load(path: pathlib.Path, role: str, record: PartRecord, base: str) -> str:
    scalar = role != "policy"
    where = f"the folder `{BASE}` in this one"
    if base or "path" in record.base:
        where = "the model that it was trained on"
    more = "\n\nThe head has no bias there: icegrt_jax adds the one in icegrt_head_bias.json." if scalar else ""
    return ADAPTER.format(
        auto="AutoPeftModelForSequenceClassification" if scalar else "AutoPeftModelForCausalLM",
        folder=path.name, options=", num_labels=1" if scalar else "", base=where, more=more,
    )  # fmt: skip


def _tokenizer(run: rundir.Run, role: str) -> ChatTokenizer:
    own = run.workdir / "reward" / "tokenizer"
    return load_tokenizer(own) if role == "reward" and own.is_dir() else run.tokenizer


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    return folder
