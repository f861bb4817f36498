"""Models with what belongs to them - shape, parameters, tokenizer - loaded and saved in one call."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import scalars, unembed
from icegrt_jax.models.hf import card
from icegrt_jax.models.hf.folder import load_hf, new_folder, write_hf
from icegrt_jax.models.hf.hub import local_folder
from icegrt_jax.models.members import Members
from icegrt_jax.models.transformer import hidden_states
from icegrt_jax.models.vocabulary import check_ids, check_tokenizer


@dataclasses.dataclass(frozen=True)
class Model:
    """A model ready for use: a language model, or a reward or value model, which has a scalar head in its place.

    Attributes:
      config: its shape.
      params: its parameter tree; of a run with several reward models all of them (`models.members.Members`), whose
        score is their mean.
      tokenizer: made for its embedding.
      measured: of a reward model, mean and spread of its scores of the reference's answers; None: not measured.

    >>> model = ice.load_model("models/reward")
    >>> tokens, mask = jnp.array([[5, 6, 7]]), jnp.ones((1, 3), bool)
    >>> model.scores(model.params, tokens, mask).shape, model.values(model.params, tokens, mask).shape
    ((1,), (1, 3))
    """

    config: ModelConfig
    params: Any
    tokenizer: ChatTokenizer
    measured: tuple[float, float] | None = None

    def __post_init__(self):
        check_tokenizer(self.tokenizer, self.config.vocab_size, "model")

    @property
    def scalar(self) -> bool:
        """Whether it is a reward or value model."""
        return "head" in (self.params.own if isinstance(self.params, Members) else self.params)

    def logits(self, params: dict, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Logits of the next token, f32[B, L, V], at each of `tokens` i32[B, L], padded on either side.

        `params` is `self.params` or any tree of the same shapes, so that it can be differentiated. Ids outside the
        vocabulary are refused, those of the padding as well, unless `tokens` are being traced.
        """
        self.need_logits("logits")
        self._check_ids(tokens)
        return _logits(params, self.config, tokens, mask)

    def values(self, params: dict, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """The scalar after each token, f32[B, L], of a reward or value model; arguments as for `logits`."""
        self.need_scores("values")
        self._check_ids(tokens)
        return _values(params, self.config, tokens, mask)

    def scores(self, params: dict, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """The scalar after the last token of each row, f32[B]; arguments as for `logits`."""
        last = jnp.argmax(jnp.where(mask, jnp.arange(mask.shape[1])[None, :], -1), axis=1)
        return jnp.take_along_axis(self.values(params, tokens, mask), last[:, None], axis=1)[:, 0]

    def need_logits(self, use: str) -> None:
        """Refuses a reward or value model."""
        if self.scalar:
            raise UserError(
                f"{use}: this is a reward or value model, which has no logits and writes nothing; expected a language "
                "model. Its numbers are `model.scores`, `model.values` and `ice.score`."
            )

    def need_scores(self, use: str) -> None:
        """Refuses a language model."""
        if not self.scalar:
            raise UserError(
                f"{use}: this is a language model, which has no scalar head; expected a reward or value model, such as "
                "`ice.train_reward` makes of it."
            )

    def _check_ids(self, tokens: jax.Array) -> None:
        if not isinstance(tokens, jax.core.Tracer):
            check_ids(jax.device_get(tokens), self.config.vocab_size, "tokens")


@functools.partial(jax.jit, static_argnames="config")
def _logits(params: dict, config: ModelConfig, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    return unembed(params, config, hidden_states(params, config, tokens, mask))


@functools.partial(jax.jit, static_argnames="config")
def _values(params: Any, config: ModelConfig, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    if isinstance(params, Members):
        return jnp.mean(params.each(lambda one: _values(one, config, tokens, mask)), axis=-1)
    return scalars(params, hidden_states(params, config, tokens, mask))


def load_hf_model(path: str | pathlib.Path, *, scalar: bool = False, chat: bool = True) -> Model:
    """The language model of a Hugging Face folder, or of a name on the hub.

    With `scalar` one with a head as well, without `chat` also one whose tokenizer has no chat template.
    """
    folder = local_folder(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model here; expected a Hugging Face folder with config.json.")
    tokenizer = load_tokenizer(folder, chat=chat)
    config, params = load_hf(folder)
    if "head" in params and not scalar:
        raise UserError(f"{folder}: holds a reward or value model, which has no logits; expected a language model.")
    check_tokenizer(tokenizer, config.vocab_size, str(folder))
    return Model(config, params, tokenizer)


def save_model(model: Model, path: str | pathlib.Path, *, dtype: str = "float32") -> None:
    """Writes a folder that `transformers` and `load_model` read; `dtype` float32, bfloat16 or float16.

    A reward or value model is written as a sequence classifier with one label.

    >>> ice.save_model(ice.load_model("models/policy"), "models/copy", dtype="bfloat16")
    >>> ice.load_model("models/copy").config.num_layers
    1
    """
    if isinstance(model.params, Members):
        raise UserError(
            f"{path}: these are {model.params.count} reward models, a folder holds one; use `icegrt export`."
        )
    path = pathlib.Path(path).expanduser()
    kind, load = ("reward or value", card.SCORES) if model.scalar else ("language", card.LANGUAGE_MODEL)
    with new_folder(path) as folder:
        write_hf(folder, model.config, model.params, model.tokenizer, dtype=dtype)
        config = model.config
        about = (
            f"A {config.family} model of {config.num_params:,} parameters, written by `save_model` of icegrt_jax. How "
            "it was trained, from what, on which data and under which licence that function does not know: say it here."
        )
        how = load.format(folder=path.name, end=model.tokenizer.tokenizer.convert_ids_to_tokens(model.tokenizer.eos_id))
        header = {
            "library_name": "transformers",
            "tags": [card.TAG],
            "pipeline_tag": "text-classification" if model.scalar else "text-generation",
        }
        card.write_card(folder, f"A {kind} model", [("What it is", about), ("How to load", how)], **header)
