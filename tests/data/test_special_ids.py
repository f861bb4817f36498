"""EOS ids of several files, and the PAD with which a classifier of transformers finds the end of every row."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from icegrt_jax.data.packing import right_pad
from icegrt_jax.data.tokenizers import load_tokenizer, same_tokenizer, wrap
from icegrt_jax.errors import UserError
from icegrt_jax.models import transformer
from icegrt_jax.models.heads import scalars
from icegrt_jax.models.hf.folder import save_hf
from tests.data.templates import make
from tests.models.examples import CONFIG, make_params

PROMPT = ({"role": "user", "content": "Why?"},)
ANSWERS = [("Because 7 is odd.", True), ("It is", False), ("7", False), ("", False), ("No!", True), ("Yes.", False)]


def with_pad(shape: str, pad: str | None) -> PreTrainedTokenizerFast:
    """A new tokenizer of a shape, with the PAD that its folder says."""
    made = make.__wrapped__(shape)
    special = {"bos_token": made.bos_token, "eos_token": made.eos_token, "pad_token": pad}
    return PreTrainedTokenizerFast(
        tokenizer_object=made.backend_tokenizer, chat_template=made.chat_template, clean_up_tokenization_spaces=False,
        **special,
    )  # fmt: skip


def pads(shape):
    """PADs of published folders: none, the end of a turn (SmolLM2), a character, a control token of its own."""
    end = {"llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "llama2": "</s>", "mistral": "</s>"}
    other = {"llama3": "<|end_header_id|>", "gemma": "<bos>", "llama2": "<s>", "mistral": "<s>"}
    return [None, end.get(shape, "<|im_end|>"), ".", other.get(shape, "<|endoftext|>")]


CASES = [(shape, pad) for shape in ("chatml", "llama2", "llama3", "gemma", "mistral") for pad in pads(shape)]


@pytest.mark.parametrize("shape, pad", CASES)
def test_an_exported_reward_model_scores_padded_and_unpadded_rows_in_transformers_as_here(tmp_path, shape, pad):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer = wrap(with_pad(shape, pad))
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size, tie_embeddings=False)
    params = make_params(config, scalar_head=True)
    save_hf(tmp_path / "reward", config, params, tokenizer)
    rows = [tokenizer.encode_answer(PROMPT, text, finished=finished)[0] for text, finished in ANSWERS]
    tokens, mask = right_pad(rows, max(map(len, rows)), tokenizer.pad_id)
    hidden = jax.jit(transformer.hidden_states, static_argnums=1)(params, config, tokens, mask)
    values = np.asarray(scalars(params, hidden))
    ours = values[np.arange(len(rows)), mask.sum(1) - 1] - float(params["head"]["bias"][0])

    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "reward")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    assert theirs.config.pad_token_id == auto.pad_token_id is not None
    assert auto.pad_token_id != tokenizer.eos_id
    score = lambda **batch: theirs(**batch).logits[:, 0].numpy()
    with torch.no_grad():
        alone = np.concatenate([score(input_ids=torch.tensor([row])) for row in rows])
        np.testing.assert_allclose(alone, ours, rtol=1e-4, atol=1e-5)
        for auto.padding_side in ("right", "left"):
            batch = auto.pad({"input_ids": rows}, return_tensors="pt")
            np.testing.assert_allclose(score(**batch), ours, rtol=1e-4, atol=1e-5, err_msg=auto.padding_side)


def test_a_pad_that_no_row_ends_with_stays_and_the_callers_tokenizer_is_left_alone():
    for pad, kept in [("<|endoftext|>", "<|endoftext|>"), ("<|im_end|>", "<|endoftext|>"), (None, "<|endoftext|>")]:
        theirs = with_pad("chatml", pad)
        assert wrap(theirs).tokenizer.pad_token == kept and theirs.pad_token == pad


def test_a_pad_is_no_eos_where_another_control_token_is_left_and_ours_is_never_one():
    listed = wrap(with_pad("chatml", None), generation={"eos_token_id": [1]})
    assert listed.tokenizer.pad_token == "<|im_start|>" and listed.eos_ids == (0, 1)
    kept = wrap(with_pad("chatml", "<|endoftext|>"), generation={"eos_token_id": [0, 1]})  # as Qwen has it
    assert kept.tokenizer.pad_token_id == 1 and kept.pad_id == 2


def test_a_token_for_unknown_characters_is_no_pad(tmp_path):
    tokenizer = with_pad("chatml", "<|endoftext|>")
    tokenizer.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    raw["model"]["unk_token"] = "<|endoftext|>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    assert load_tokenizer(tmp_path).tokenizer.pad_token == "<|im_start|>"
    raw["model"]["byte_fallback"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    assert load_tokenizer(tmp_path).tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, (0,)),
        ({"generation_config.json": {"eos_token_id": [0, 1, 2]}}, (0, 1, 2)),
        ({"generation_config.json": {"eos_token_id": 1}}, (0, 1)),
        ({"config.json": {"eos_token_id": [1, 0]}}, (0, 1)),
        ({"generation_config.json": {"temperature": 0.6}, "config.json": {"eos_token_id": [2]}}, (0, 2)),
        ({"generation_config.json": {"eos_token_id": 1}, "config.json": {"eos_token_id": 2}}, (0, 1)),
    ],
)
def test_an_answer_ends_at_the_ids_that_generation_ends_at(tmp_path, files, expected):
    make("chatml").save_pretrained(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eos_ids == expected and tokenizer.pad_id not in expected
    tokenizer.save(tmp_path / "copy")
    copy = load_tokenizer(tmp_path / "copy")
    settings = [{key: x for key, x in t.generation.items() if key != "eos_token_id"} for t in (copy, tokenizer)]
    assert copy.eos_ids == expected and settings[0] == settings[1]


@pytest.mark.parametrize("ids", [-1, 9999, "</s>", [0, True], [], 1.0, [[1]]])
def test_eos_ids_that_are_none_are_refused_with_their_file(tmp_path, ids):
    make("chatml").save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id=.*; expected one id of the tokenizer"):
        load_tokenizer(tmp_path)


def test_tokenizers_that_differ_in_where_sampling_ends_are_the_same():
    one, other = (wrap(make("chatml"), generation={"eos_token_id": ids}) for ids in ([0], [0, 2]))
    assert one.eos_ids != other.eos_ids and same_tokenizer(one, other)
