"""Models with what belongs to them - shape, parameters, tokenizer - loaded and saved in one call."""

import dataclasses
import functools
import pathlib

import jax

from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import unembed
from icegrt_jax.models.hf import card
from icegrt_jax.models.hf.folder import load_hf, new_folder, write_hf
from icegrt_jax.models.hf.hub import local_folder
from icegrt_jax.models.transformer import hidden_states
from icegrt_jax.models.vocabulary import check_ids, check_tokenizer


@dataclasses.dataclass(frozen=True)
class Model:
    """A model ready for use.

    Attributes:
      config: its shape.
      params: its parameter tree.
      tokenizer: made for its embedding.
    """

    config: ModelConfig
    params: dict
    tokenizer: ChatTokenizer

    def __post_init__(self):
        check_tokenizer(self.tokenizer, self.config.vocab_size, "model")

    def logits(self, params: dict, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Logits of the next token, f32[B, L, V], at each of `tokens` i32[B, L], padded on either side.

        `params` is `self.params` or any tree of the same shapes, so that it can be differentiated. Ids outside the
        vocabulary are refused, those of the padding as well, unless `tokens` are being traced.
        """
        if not isinstance(tokens, jax.core.Tracer):
            check_ids(jax.device_get(tokens), self.config.vocab_size, "tokens")
        return _logits(params, self.config, tokens, mask)


@functools.partial(jax.jit, static_argnames="config")
def _logits(params: dict, config: ModelConfig, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    return unembed(params, config, hidden_states(params, config, tokens, mask))


def load_hf_model(path: str | pathlib.Path) -> Model:
    """The language model of a Hugging Face folder, or of a name on the hub."""
    folder = local_folder(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model here; expected a Hugging Face folder with config.json.")
    tokenizer = load_tokenizer(folder)
    config, params = load_hf(folder)
    if "head" in params:
        raise UserError(f"{folder}: holds a reward or value model, which has no logits; expected a language model.")
    check_tokenizer(tokenizer, config.vocab_size, str(folder))
    return Model(config, params, tokenizer)


def save_model(model: Model, path: str | pathlib.Path, *, dtype: str = "float32") -> None:
    """Writes a folder that `transformers` and `load_hf_model` read; `dtype` float32, bfloat16 or float16."""
    path = pathlib.Path(path).expanduser()
    with new_folder(path) as folder:
        write_hf(folder, model.config, model.params, model.tokenizer, dtype=dtype)
        config = model.config
        about = (
            f"A {config.family} model of {config.num_params:,} parameters, written by `save_model` of icegrt_jax. How "
            "it was trained, from what, on which data and under which licence that function does not know: say it here."
        )
        sections = [("What it is", about), ("How to load", card.LANGUAGE_MODEL.format(folder=path.name))]
        header = {"library_name": "transformers", "tags": [card.TAG], "pipeline_tag": "text-generation"}
        card.write_card(folder, "A language model", sections, **header)
