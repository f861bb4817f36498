"""Models of some thousand parameters, with a tokenizer."""

import pathlib

import jax

from icegrt_jax.data.tokenizers import train_bpe
from icegrt_jax.models.api import Model, save_model
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params

TEXTS = ["the cat sat on the mat", "the end is near"]
SIZES = dict(d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=16, max_length=64)


def write_models(folder: pathlib.Path) -> None:
    tokenizer = train_bpe(TEXTS * 5, 280, folder.parent / "tokenizer")
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **SIZES)
    for name, scalar in (("policy", False), ("reward", True)):
        save_model(Model(config, init_params(jax.random.key(1), config, scalar_head=scalar), tokenizer), folder / name)
