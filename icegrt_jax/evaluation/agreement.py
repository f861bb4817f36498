"""Whether the files of a Hugging Face folder agree about its tokens and weights, read as transformers reads them."""

import pathlib
from collections.abc import Sequence

import transformers

from icegrt_jax.data.special_ids import GENERATION, read_generation
from icegrt_jax.data.tokenizer_folder import auto_tokenizer
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.evaluation.parity import Result
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf.config import read_hf_config
from icegrt_jax.models.hf.families import family_of

# In generation_config.json, yet no settings: ids are compared by themselves.
NO_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config")


def their_eos(folder: pathlib.Path) -> tuple[int, ...]:
    """The ids at which `generate` of transformers stops: of generation_config.json, of config.json only without it."""
    name = GENERATION if (folder / GENERATION).is_file() else "config.json"
    ids = transformers.GenerationConfig.from_pretrained(folder, config_file_name=name).eos_token_id
    return () if ids is None else tuple(ids) if isinstance(ids, list) else (ids,)


def compare_eos(tokenizer: ChatTokenizer, folder: pathlib.Path) -> Result:
    """The ids that end an answer, each side's own."""
    ours, theirs = set(tokenizer.eos_ids), set(their_eos(folder))
    found = "equal"
    if ours != theirs:
        found = f"different: ours {_named(tokenizer, [*ours])}, theirs {_named(tokenizer, [*theirs])}"
    return Result("EOS ids", f"{len(ours)} and {len(theirs)} ids", found, ours == theirs)


def compare_pad(tokenizer: ChatTokenizer, folder: pathlib.Path) -> Result:
    """The PAD of a classifier: config.json's, by which it finds the end of a row, and its tokenizer's."""
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    ids = [config.pad_token_id, auto_tokenizer(folder).pad_token_id]
    names = [_named(tokenizer, [] if i is None else [i]) for i in ids]
    found = "equal" if ids[0] == ids[1] else f"different: config.json {names[0]}, the tokenizer {names[1]}"
    return Result("PAD", "config.json and tokenizer", found, ids[0] == ids[1])


def compare_tied(config: ModelConfig, folder: pathlib.Path) -> Result:
    """Whether the output matrix is the embedding: what config.json says, and what is stored."""
    says = {**family_of(config).defaults, **read_hf_config(folder)}["tie_word_embeddings"]
    same = bool(says) == config.tie_embeddings
    found = "equal" if same else "different: tied by config.json, lm_head.weight is stored with other values"
    return Result("tied embeddings", "config.json and weights", found, same)


def compare_generation(folder: pathlib.Path, other: pathlib.Path, vocab_size: int) -> Result:
    """The settings of generation of two folders."""
    ours, theirs = (
        {key: value for key, value in read_generation(place, vocab_size).items() if key not in NO_SETTINGS}
        for place in (folder, other)
    )
    keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    found = f"different: {', '.join(keys)}" if keys else "equal"
    return Result("generation settings", f"{len(theirs)} keys", found, not keys)


def _named(tokenizer: ChatTokenizer, ids: Sequence[int]) -> str:
    """The tokens with their ids."""
    name = tokenizer.tokenizer.convert_ids_to_tokens
    return ", ".join(f"{i} ({name(i)!r})" for i in sorted(ids)) or "none"
