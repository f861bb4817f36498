"""The public way to a model: `load_model` takes a Hugging Face model, a GGUF file or a finished stage of a run."""

import pathlib

import jax

from icegrt_jax import files
from icegrt_jax.data.tokenizers import load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model, load_hf_model
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.gguf import load_gguf
from icegrt_jax.models.heads import init_params
from icegrt_jax.training.checkpoints import Checkpoints


def load_model(path: str | pathlib.Path) -> Model:
    """The language model in `path`, with its tokenizer.

    Args:
      path: a Hugging Face folder (config.json and safetensors), a .gguf file, or the folder of a finished
        stage, such as runs/quickstart/ppo.
    """
    folder = pathlib.Path(path).expanduser()
    if (folder / "checkpoints").is_dir():
        return _load_stage(folder)
    if folder.suffix == ".gguf":
        return Model(*load_gguf(folder))
    return load_hf_model(path)


def _load_stage(folder: pathlib.Path) -> Model:
    if not (folder / "done.json").is_file():
        raise UserError(f"{folder}: this stage has not finished; run the same command again to continue it.")
    done = files.read_json(folder / "done.json")
    if "policy" not in done["models"]:
        raise UserError(f"{folder}: holds a {', '.join(done['models'])} model, which has no logits.")
    config = ModelConfig(**done["models"]["policy"])
    abstract = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        restored = checkpoints.restore({"params": {"policy": abstract}}, done["step"], partial=True)
    return Model(config, restored["params"]["policy"], load_tokenizer(folder.parent / "tokenizer"))
