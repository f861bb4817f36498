"""The tokenizer folders that we write: what transformers 4.57 needs of them, and the same tokenizer in 5.

Only 5 is at hand here. The keys are those by which 4.57.6 was seen to load each of these and to give the same ids: it
has no class TokenizersBackend, takes `extra_special_tokens` as a dict of names, lists in `additional_special_tokens`.
"""

import dataclasses
import json

import pytest

from icegrt_jax.data.tokenizers import load_tokenizer, same_tokenizer, train_bpe, wrap
from icegrt_jax.models.hf.families import FAMILIES
from icegrt_jax.models.hf.folder import save_hf
from tests.data.templates import SHAPES, make
from tests.models.examples import CONFIG, make_params

CHAT = [{"role": "user", "content": "Why  is 7\nodd?"}]
TEXT = "Why  is 7? it's é🙂\n\n<s> <|im_end|> [INST]"
# What either version may find in the file, and nothing that says where the tokenizer was loaded from.
KNOWN = {
    "additional_special_tokens", "bos_token", "clean_up_tokenization_spaces", "eos_token", "extra_special_tokens",
    "image_token", "model_input_names", "model_max_length", "pad_token", "tokenizer_class",
}  # fmt: skip


def settings(folder):
    return json.loads((folder / "tokenizer_config.json").read_text())


def check_loadable_by_4(folder):
    described = settings(folder)
    assert described["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert described["model_input_names"] == ["input_ids", "attention_mask"], "generate refuses token types"
    assert isinstance(described.get("extra_special_tokens", {}), dict)
    assert described.keys() <= KNOWN
    assert str(folder.parent) not in (folder / "tokenizer_config.json").read_text()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_tokenizer_has_the_keys_that_transformers_4_loads_and_stays_the_same(tmp_path, shape):
    make(shape).save_pretrained(tmp_path / "first")
    first = load_tokenizer(tmp_path / "first")
    for source, folder in [(first, tmp_path / "second"), (None, tmp_path / "third")]:
        source = source or load_tokenizer(tmp_path / "second")
        source.save(folder)
        check_loadable_by_4(folder)
        again = load_tokenizer(folder)
        assert same_tokenizer(again, first)
        assert again.tokenizer(TEXT)["input_ids"] == first.tokenizer(TEXT)["input_ids"], "BOS is added as before"
        assert again.encode_prompt(CHAT) == first.encode_prompt(CHAT)
        assert again.decode(again.encode_text(TEXT)) == first.decode(first.encode_text(TEXT))


def test_lists_and_names_of_special_tokens_are_kept_apart(tmp_path):
    make("llama3").save_pretrained(tmp_path / "first")
    more = {"extra_special_tokens": ["<|end_header_id|>"], "image_token": "<|start_header_id|>"}
    (tmp_path / "first" / "tokenizer_config.json").write_text(json.dumps({**settings(tmp_path / "first"), **more}))
    load_tokenizer(tmp_path / "first").save(tmp_path / "second")
    check_loadable_by_4(tmp_path / "second")
    assert settings(tmp_path / "second")["additional_special_tokens"] == ["<|end_header_id|>"]
    assert settings(tmp_path / "second")["extra_special_tokens"] == {"image_token": "<|start_header_id|>"}
    again = load_tokenizer(tmp_path / "second").tokenizer
    assert again.extra_special_tokens == ["<|end_header_id|>"] and again.image_token == "<|start_header_id|>"


def test_our_own_tokenizer_is_written_alike(tmp_path):
    train_bpe(["Why is 7 odd?"] * 3, 300, tmp_path)
    check_loadable_by_4(tmp_path)
    assert settings(tmp_path)["additional_special_tokens"] == ["<|system|>", "<|user|>", "<|assistant|>"]


def test_code_that_was_not_needed_is_not_written(tmp_path):
    make("chatml").save_pretrained(tmp_path / "first")
    code = {"auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (tmp_path / "first" / "tokenizer_config.json").write_text(json.dumps({**settings(tmp_path / "first"), **code}))
    load_tokenizer(tmp_path / "first").save(tmp_path / "second")
    check_loadable_by_4(tmp_path / "second")
    assert "auto_map" not in settings(tmp_path / "second")


@pytest.mark.parametrize("family", FAMILIES)
def test_beside_a_model_of_any_family_the_tokenizer_is_the_one_that_was_saved(tmp_path, family):
    """AutoTokenizer would rebuild Qwen 2's its own way, and add a PAD outside the embedding."""
    tokenizer = wrap(make("llama3"))
    shape = {"family": family, "vocab_size": tokenizer.vocab_size, **FAMILIES[family].ours}
    if family == "gemma3_text":
        shape["local_rope_theta"] = 100.0
    config = dataclasses.replace(CONFIG, **shape)
    save_hf(tmp_path / "model", config, make_params(config), tokenizer)
    again = load_tokenizer(tmp_path / "model")
    assert same_tokenizer(again, tokenizer)
    assert again.tokenizer(TEXT)["input_ids"] == tokenizer.tokenizer(TEXT)["input_ids"]
