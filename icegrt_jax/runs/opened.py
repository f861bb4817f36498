"""Models by path: of a Hugging Face folder, a .gguf file, the folder of a stage or of a run."""

import pathlib

from icegrt_jax.data.tokenizers import load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.files import part_of_run
from icegrt_jax.models.api import Model, load_hf_model
from icegrt_jax.models.gguf.file import load_gguf
from icegrt_jax.training.restore import SCALAR_ROLES, finished, is_finished, load_role

STAGES = ("ppo", "sft", "pretrain")  # whose policy a run's folder stands for: the first that has finished
ROLES = ("policy", *SCALAR_ROLES)


def open_model(path: str | pathlib.Path, role: str = "", *, chat: bool = True) -> Model:
    """The model in a Hugging Face folder, a .gguf file, a stage's folder or that of a run, with its tokenizer.

    Args: as of `ice.load_model`, and
      chat: whether its tokenizer must have a chat template.
    """
    folder = pathlib.Path(path).expanduser()
    if role and role not in ROLES:
        raise UserError(f"role={role!r}; expected one of {', '.join(map(repr, ROLES))}.")
    if part := part_of_run(folder):
        return _load_stage(folder if part == "stage" else _newest(folder, role), role)
    model = Model(*load_gguf(folder)) if folder.suffix == ".gguf" else load_hf_model(path, scalar=True, chat=chat)
    if role and model.scalar != (role in SCALAR_ROLES):
        raise UserError(f"{folder}: holds a {'reward or value' if model.scalar else 'language'} model, no {role}.")
    return model


def _newest(folder: pathlib.Path, role: str) -> pathlib.Path:
    """The finished stage that the folder of a run stands for."""
    stages = ("reward",) if role == "reward" else ("ppo",) if role == "value" else STAGES
    for stage in stages:
        if is_finished(folder / stage):
            return folder / stage
    raise UserError(
        f"{folder}: the run has no {role or 'policy'} yet, none of its stages {', '.join(stages)} has finished; let "
        "one end, or name another folder."
    )


def _load_stage(folder: pathlib.Path, role: str) -> Model:
    done = finished(folder)
    held = [name for name in ROLES if name in done["models"]]
    role = role or held[0]
    own = folder / "tokenizer"  # a reward model may have another than the policy
    tokenizer = load_tokenizer(own if role == "reward" and own.is_dir() else folder.parent / "tokenizer")
    measured = (done["ref_mean"], done["ref_std"]) if role == "reward" and "ref_mean" in done else None
    return Model(*load_role(folder, role), tokenizer, measured)
