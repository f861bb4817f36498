"""Models and settings that every contender gets, and where they come from."""

import dataclasses
import gzip
import json
import os
import pathlib

import numpy as np

from benchmarks.formulas import Shape

PROMPT, NEW = 64, 64  # tokens; the fixed setting on SmolLM2
NATURAL_PROMPT, NATURAL_NEW = 128, 128  # tokens at most
FIRST_ID = 5  # below are special tokens


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to measure with.

    shape: its sizes. path: a Hugging Face folder, or empty for random weights. scan_layers, remat: as the runs of this
    project would have it. dtype: of the computation.
    """

    name: str
    shape: Shape
    path: str = ""
    scan_layers: bool = False
    remat: str = "none"
    dtype: str = "float32"
    rope_theta: float = 10000.0

    def settings(self) -> dict:
        """As JSON for a worker of ours."""
        return dataclasses.asdict(self)


SMOLLM2 = Shape(vocab_size=49152, d_model=576, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64, d_ff=1536)
TINY = Shape(vocab_size=4096, d_model=256, num_layers=4, num_heads=4, num_kv_heads=4, head_dim=64, d_ff=688)
LLAMA_1B = Shape(vocab_size=128256, d_model=2048, num_layers=16, num_heads=32, num_kv_heads=8, head_dim=64, d_ff=8192)


def random_tokens(vocab_size: int, rows: int, length: int) -> np.ndarray:
    """i32[rows, length] without special tokens, the same for every contender."""
    return np.random.default_rng(0).integers(FIRST_ID, vocab_size, (rows, length)).astype(np.int32)


def smollm2(path: str) -> Model:
    """SmolLM2-135M-Instruct, computed as the default config has it."""
    return Model("SmolLM2-135M", SMOLLM2, path, rope_theta=100000.0)


def tiny(folder: pathlib.Path) -> Model:
    """A random Llama of 4.2 M parameters that shows overhead; written as a Hugging Face folder for the peers."""
    import jax

    from icegrt_jax.models.config import ModelConfig
    from icegrt_jax.models.heads import init_params
    from icegrt_jax.models.hf.folder import save_hf

    path = folder / "tiny-llama"
    if not (path / "config.json").is_file():
        config = ModelConfig(**dataclasses.asdict(TINY), max_length=512)
        save_hf(path, config, init_params(jax.random.key(0), config), None)
    return Model("tiny Llama", TINY, str(path))


def llama_1b() -> Model:
    """The shape of Llama 3.2 1B with random weights, computed in bfloat16."""
    return Model("1B Llama", LLAMA_1B, scan_layers=True, remat="dots", dtype="bfloat16", rope_theta=500000.0)


def data_folder() -> pathlib.Path | None:
    """What ICEGRT_DATA names, if prompts are there."""
    folder = pathlib.Path(os.environ.get("ICEGRT_DATA", ""))
    return folder if (folder / "prompts" / "rl_train.jsonl.gz").is_file() else None


def natural_prompts(folder: pathlib.Path, model_path: str, count: int) -> tuple[list[list[int]], list[int]]:
    """The first `count` prompts of at most NATURAL_PROMPT tokens as ids, chat template included, and the EOS ids."""
    from icegrt_jax.data.records import user
    from icegrt_jax.data.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(model_path)
    prompts = []
    with gzip.open(folder / "prompts" / "rl_train.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            ids = tokenizer.encode_prompt(user(json.loads(line)["prompt"]))
            if len(ids) <= NATURAL_PROMPT:
                prompts.append([int(token) for token in ids])
            if len(prompts) == count:
                break
    return prompts, list(tokenizer.eos_ids)
