"""Where there is no pretrained model: a new one with a tokenizer of its own, and its training on plain text."""

import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from icegrt_jax.api import records, settings
from icegrt_jax.api.supervised import policy_training, section_of
from icegrt_jax.api.training import Training
from icegrt_jax.config import check
from icegrt_jax.config.options import (
    LengthOptions,
    MeshOptions,
    Options,
    ShapeOptions,
    SupervisedOptions,
    TokenizerOptions,
)
from icegrt_jax.data.records import Text
from icegrt_jax.data.tokenizers import train_bpe
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.models.heads import init_params
from icegrt_jax.runs.session import STREAMS
from icegrt_jax.runs.stage_models import scratch_config


def new_model(
    texts: Iterable[str],
    *,
    shape: ShapeOptions | None = None,
    vocab_size: int = TokenizerOptions.vocab_size,
    max_length: int = LengthOptions().total,
    seed: int = Options.seed,
    **keys: Any,
) -> Model:
    """A model with random parameters and a byte-level tokenizer that is trained on `texts`.

    Args:
      texts: what it will read; the same texts give the same tokenizer.
      shape: `ice.options.ShapeOptions`. Its fields can be given singly as well: d_model, num_layers and so on.
      vocab_size: tokens at most; texts that are short give fewer.
      max_length: tokens of prompt and response together.
      seed: of the parameters.

    >>> model = ice.new_model(["the cat sat"] * 9, vocab_size=270, d_model=16, num_layers=1)
    >>> model.config.d_model, model.scalar
    (16, False)
    """
    if isinstance(texts, str):
        raise UserError("texts: expected several texts, got one; give a list.")
    section = settings.section(ShapeOptions(), shape, keys, "model")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_bpe(texts, vocab_size, f"{folder}/tokenizer")
    config = scratch_config(section, tokenizer.vocab_size, max_length)
    key = jax.random.fold_in(jax.random.key(seed), STREAMS["base"])
    return Model(config, init_params(key, config), tokenizer)


def pretrain(
    model: Model,
    texts: Any,
    *,
    options: SupervisedOptions | None = None,
    seed: int = Options.seed,
    mesh: MeshOptions | Mapping = Options.mesh,
    data_dir: str = "",
    donate: bool = False,
    progress: bool = False,
    **keys: Any,
) -> Training:
    """Next-token training on plain text: going over it gives `(step, metrics)`, `finish()` the model.

    Args:
      model: a language model, such as a new one; it stays as it is.
      texts: strings, dicts such as {"text"}, records, a .jsonl file or FORMAT:PATH as in a config; or several of them
        by name, mixed by `weights`.
      options: `ice.options.SupervisedOptions`. Its fields can be given singly as well: steps (needed), batch_size,
        length, optimizer={"lr": 1e-3} and so on. All defaults are those of the command line.
      seed, mesh, data_dir, donate, progress: as for `sft`.

    >>> model = ice.load_model("models/policy")
    >>> base = ice.pretrain(model, ["the cat sat on the mat"] * 8, steps=2, batch_size=8, length=32).finish()
    """
    model.need_logits("pretrain")
    given = records.sources(texts, Text, "texts", data_dir)
    section = section_of(SupervisedOptions(), options, keys, "pretrain", given)
    check(Options(pretrain=section))
    session = settings.session(model, seed, mesh)
    # Texts are split over rows, and only the last piece has EOS.
    return policy_training("pretrain", model, given, section, session, cut=True, donate=donate, progress=progress)
