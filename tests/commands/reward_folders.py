"""Hugging Face folders with tiny models whose tokenizer, vocabulary and size are not those of the smallest run."""

import pathlib

from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf.folder import save_hf
from tests.models.examples import make_params

SHAPE = dict(d_model=24, num_layers=1, num_heads=3, num_kv_heads=1, head_dim=8, d_ff=40)


def tiny_folder(
    folder: pathlib.Path, tokenizer: ChatTokenizer, *, scalar_head: bool = True, rows: int = 0
) -> tuple[ModelConfig, dict]:
    """Writes the folder; returns shape and parameters. `rows` of the embedding, by default as many as ids."""
    config = ModelConfig(vocab_size=rows or tokenizer.vocab_size + 7, tie_embeddings=False, **SHAPE)
    params = make_params(config, scalar_head=scalar_head)
    save_hf(folder, config, params, tokenizer)
    return config, params
