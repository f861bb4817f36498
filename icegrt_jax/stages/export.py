"""`icegrt export`: the model of a finished stage as a folder for transformers, or its adapter as one for PEFT."""

import pathlib

from ml_collections import ConfigDict

from icegrt_jax.data.tokenizers import load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.hf import save_hf
from icegrt_jax.models.peft import save_adapter
from icegrt_jax.stages import common
from icegrt_jax.training.stored import finished, load_own

DEFAULT_ROLES = ("policy", "reward")  # the first that the stage has


def main(
    config: ConfigDict, workdir: pathlib.Path, *, stage: str, role: str | None, out: str, dtype: str, adapter: bool
) -> None:
    """Writes the folder `out`: a causal language model, or for reward and value a sequence classifier with one label.

    Args:
      stage: whose model.
      role: policy, value or reward; by default the stage's policy, or its reward model.
      out: the folder, which appears whole or not at all.
      dtype: of the stored tensors.
      adapter: write the trained adapter alone, in PEFT's format and float32.
    """
    models = finished(workdir / stage)["models"]
    role = role or next(name for name in DEFAULT_ROLES if name in models)
    if role not in models:
        raise UserError(f"--role={role}: the {stage} stage has no such model; it has {', '.join(models)}.")
    if adapter:
        return write_adapter(workdir, stage, role, out)
    run = common.start(config, workdir)
    model, params = common.stage_params(run, stage, role)
    tokenizer = load_tokenizer(workdir / "reward" / "tokenizer") if role == "reward" else run.tokenizer
    save_hf(out, model, params, tokenizer, dtype=dtype)
    print(f"{out}: the {role} model of {stage}, {model.num_params} parameters as {dtype}")


def write_adapter(workdir: pathlib.Path, stage: str, role: str, out: str) -> None:
    """Writes what the stage trained of the role, for PEFT."""
    model, own, record = load_own(workdir / stage, role)
    if record is None or record.lora is None:
        raise UserError(f"--adapter: the {stage} stage trained the {role} model without one; leave the flag out.")
    if "adapter" in record.base:
        raise UserError(
            f"--adapter: its base is {record.base['path']} with the adapter {record.base['adapter']} merged in, which "
            "PEFT would not know; leave the flag out."
        )
    base = record.base.get("path") or f"the {record.base['role']} of {workdir / record.base['stage']}, exported"
    save_adapter(out, own, model, record.lora, base)
    stored = "" if record.base_dtype == "float32" else f", trained with it stored as {record.base_dtype}"
    print(f"{out}: the {role} adapter of {stage}, rank {record.lora.rank}; its base is {base}{stored}")
