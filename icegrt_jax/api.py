"""The public way to a model: `load_model` takes a Hugging Face model, a GGUF file or a finished stage of a run."""

import dataclasses
import pathlib

from icegrt_jax.data.tokenizers import load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model, load_hf_model
from icegrt_jax.models.gguf.file import load_gguf
from icegrt_jax.training.restore import finished, load_role, with_peft


def load_model(path: str | pathlib.Path, *, adapter: str | pathlib.Path | None = None) -> Model:
    """The language model in `path`, with its tokenizer.

    Args:
      path: a Hugging Face folder (config.json and safetensors), a .gguf file, or the folder of a finished
        stage, such as runs/quickstart/ppo.
      adapter: a folder that PEFT saved, a LoRA adapter of that model; it is merged in.
    """
    model = _load(path)
    return dataclasses.replace(model, params=with_peft(model.config, model.params, str(adapter or "")))


def _load(path: str | pathlib.Path) -> Model:
    folder = pathlib.Path(path).expanduser()
    if (folder / "checkpoints").is_dir():
        return _load_stage(folder)
    if folder.suffix == ".gguf":
        return Model(*load_gguf(folder))
    return load_hf_model(path)


def _load_stage(folder: pathlib.Path) -> Model:
    done = finished(folder)
    if "policy" not in done["models"]:
        raise UserError(f"{folder}: holds a {', '.join(done['models'])} model, which has no logits.")
    return Model(*load_role(folder, "policy"), load_tokenizer(folder.parent / "tokenizer"))
