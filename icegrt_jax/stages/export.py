"""`icegrt export`: the model of a finished stage as a folder that transformers loads."""

import pathlib

from ml_collections import ConfigDict

from icegrt_jax import files
from icegrt_jax.errors import UserError
from icegrt_jax.models.hf import save_hf
from icegrt_jax.stages import common

DEFAULT_ROLES = ("policy", "reward")  # the first that the stage has


def main(config: ConfigDict, workdir: pathlib.Path, *, stage: str, role: str | None, out: str, dtype: str) -> None:
    """Writes the folder `out`: a causal language model, or for reward and value a sequence classifier with one label.

    Args:
      stage: whose model.
      role: policy, value or reward; by default the stage's policy, or its reward model.
      out: the folder, which appears whole or not at all.
      dtype: of the stored tensors.
    """
    done = workdir / stage / "done.json"
    if not done.is_file():
        raise UserError(f"{workdir / stage}: the {stage} stage has not finished; run `icegrt {stage}` first.")
    models = files.read_json(done)["models"]
    role = role or next(name for name in DEFAULT_ROLES if name in models)
    if role not in models:
        raise UserError(f"--role={role}: the {stage} stage has no such model; it has {', '.join(models)}.")
    run = common.start(config, workdir)
    model, params = common.stage_params(run, stage, role)
    save_hf(out, model, params, run.tokenizer, dtype=dtype)
    print(f"{out}: the {role} model of {stage}, {model.num_params} parameters as {dtype}")
