"""What stops a stage before it trains: batches as a wrong pipeline would make them."""

import dataclasses

import numpy as np
import pytest

from icegrt_jax.data import audit
from icegrt_jax.data.packing import Example, lay_out, left_pad
from icegrt_jax.data.pipeline import prompt_batches, ranking_batches, sft_batches
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text, user
from icegrt_jax.data.tokenizers import wrap
from icegrt_jax.errors import UserError
from tests.data.templates import SHAPES, make

CHAT = (*user("What is 7?"), {"role": "assistant", "content": "It is odd."})
LONG = (*user("What is 7?"), {"role": "assistant", "content": "It is odd. " * 20})


@pytest.fixture(scope="module")
def llama():
    return wrap(make("llama3"))


def sft(tokenizer, *records, length=96, **options):
    return sft_batches({"a": records}, {"a": 1}, tokenizer, batch_size=2, length=length, seed=0, **options)[0]


def rankings(tokenizer, *answers, length=96, **options):
    records = [Ranking(user("What is 7?"), answers, tuple(range(1, len(answers) + 1)))]
    return ranking_batches({"a": records}, {"a": 1}, tokenizer, batch_size=1, length=length, seed=0, **options)[0]


def row(tokenizer, ids, mask, length=64):
    return {key: value[None] for key, value in lay_out([Example(ids, mask)], length, tokenizer.pad_id).items()}


# What is shown


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pipeline_s_own_batches_pass_under_every_template(shape):
    tokenizer = wrap(make(shape))
    shown = audit.check(sft(tokenizer, Instruction(CHAT)), tokenizer)
    space = " " if shape == "llama2" else ""
    assert f"It is odd.{space}{tokenizer.tokenizer.convert_ids_to_tokens(tokenizer.eos_id)}⟧" in shown
    shown = audit.check(rankings(tokenizer, "Yes.", "No."), tokenizer)
    assert audit.check(rankings(tokenizer, "Yes.", "No.", trees=True), tokenizer) == shown
    prompts = prompt_batches({"a": [Prompt(CHAT[:1])]}, {"a": 1}, tokenizer, batch_size=1, max_prompt_length=64, seed=0)
    audit.check(prompts[0], tokenizer)


def test_an_example_shows_special_tokens_and_brackets_what_is_trained_on(llama):
    ids, mask = llama.encode_conversation(CHAT)
    first, _, text = audit.check(sft(llama, Instruction(CHAT)), llama).partition("\n")
    assert first == f"{sum(mask)} of {len(ids)} tokens; ⟦ ⟧ is trained on"
    assert text == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 7?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦It is odd.<|eot_id|>⟧"
    )


def test_a_ranking_shows_where_the_score_is_read_and_a_prompt_where_the_answer_goes(llama):
    text = audit.check(rankings(llama, "Yes.", "No."), llama)
    assert "is where the score is read" in text and text.endswith("Yes.⟦<|eot_id|>⟧")
    tokens, mask = left_pad([llama.encode_prompt(CHAT[:1])], 64, llama.pad_id)
    text = audit.check({"tokens": tokens, "mask": mask}, llama)
    assert text.startswith("⟦ ⟧ is where the model answers\n<|begin_of_text|>")
    assert text.endswith("assistant<|end_header_id|>\n\n⟦ ⟧")


def test_every_turn_is_bracketed_and_words_keep_their_spaces():
    tokenizer = wrap(make("mistral"))
    turns = (*CHAT, *user("Why?"), {"role": "assistant", "content": "é🙂"})
    assert audit.check(sft(tokenizer, Instruction(turns)), tokenizer).partition("\n")[2] == (
        "<s>[INST] What is 7?[/INST]⟦ It is odd.</s>⟧[INST] Why?[/INST]⟦ é🙂</s>⟧"
    )


def test_a_long_example_keeps_its_beginning_and_end():
    text = audit.shorten("a" * 900 + "b" * 900, 100)
    assert text == "a" * 50 + " … [1700 characters] … " + "b" * 50
    assert audit.shorten("short") == "short"


def test_what_was_cut_or_split_by_length_need_not_end_in_eos(llama):
    batch = sft(llama, Instruction(LONG), length=32, overlong="cut")
    audit.check(batch, llama, cut=True)
    with pytest.raises(UserError, match="not with EOS"):
        audit.check(batch, llama)
    audit.check(sft(llama, Text("It is odd. " * 20), length=16), llama, cut=True)
    audit.check(rankings(llama, "Yes. " * 40, "No.", length=32, overlong="cut"), llama, cut=True)


# What is stopped


def test_a_double_bos_stops(llama):
    ids = [llama.tokenizer.bos_token_id, *llama.encode_conversation(CHAT)[0]]
    assert ids == llama.tokenizer(llama.tokenizer.decode(ids[1:]))["input_ids"], "what adding special tokens gives"
    mask = [False, *llama.encode_conversation(CHAT)[1]]
    tokens, real = left_pad([ids], 64, llama.pad_id)
    answers = {"tokens": tokens[None], "mask": real[None], "last": np.array([[63]]), "ranks": np.ones((1, 1))}
    for batch in (row(llama, ids, mask), {"tokens": tokens, "mask": real}, answers):
        with pytest.raises(UserError, match=r"double BOS: '<\|begin_of_text\|>' stands twice in a row"):
            audit.check(batch, llama)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_trained_span_without_its_end_of_turn_stops(llama, lost):
    ids, mask = llama.encode_conversation(CHAT)
    with pytest.raises(UserError, match=r"ends with '.*' and not with EOS \('<\|eot_id\|>'\)"):
        audit.check(row(llama, ids[:-lost], mask[:-lost]), llama, cut=True)
    with pytest.raises(UserError, match="not with EOS"):
        audit.check(row(llama, ids, [*mask[:-lost], *[False] * lost]), llama)


def test_a_middle_turn_without_its_end_stops_even_where_the_last_may_be_cut(llama):
    ids, mask = llama.encode_conversation((*CHAT, *user("Why?"), {"role": "assistant", "content": "So."}))
    mask[ids.index(llama.eos_id, mask.index(True))] = False
    with pytest.raises(UserError, match="not with EOS"):
        audit.check(row(llama, ids, mask, length=len(ids)), llama, cut=True)


def test_an_answer_without_eos_stops_a_ranking(llama):
    batch = rankings(llama, "Yes.", "No.")
    batch["mask"] &= batch["tokens"] != llama.eos_id  # masks the ends of turns as if they were padding
    batch["last"] = 95 - np.argmax(batch["mask"][..., ::-1], axis=-1)
    with pytest.raises(UserError, match="not with EOS"):
        audit.check(batch, llama)


def test_a_score_read_past_the_last_token_stops(llama):
    batch = rankings(llama, "Yes.", "No.")
    with pytest.raises(UserError, match="the score of an answer is read at token"):
        audit.check({**batch, "last": batch["last"] + 1}, llama)


def test_padding_that_is_eos_and_counted_stops(llama):
    padded = dataclasses.replace(llama, pad_id=llama.eos_id)
    batch = sft(padded, Instruction(CHAT))
    audit.check(batch, padded)  # left out by the mask, it does no harm
    everything = {**batch, "loss_mask": np.ones_like(batch["loss_mask"])}
    with pytest.raises(UserError, match="places of padding are counted by the loss mask"):
        audit.check(everything, padded)
    with pytest.raises(UserError, match=r"padding is '<\|eot_id\|>', which is also EOS, and the mask counts it"):
        audit.check({**everything, "segment_ids": np.ones_like(batch["segment_ids"])}, padded)
    for batch in (
        rankings(padded, "Yes.", "No."),
        dict(zip(("tokens", "mask"), left_pad([padded.encode_prompt(CHAT[:1])], 64, padded.pad_id))),
    ):
        audit.check(batch, padded)
        counted = {**batch, "mask": np.ones_like(batch["mask"])}
        if "last" in batch:
            counted["last"] = np.full_like(batch["last"], 95)
        with pytest.raises(UserError, match="which is also EOS, and the mask counts it"):
            audit.check(counted, padded)


def test_an_empty_mask_stops(llama):
    ids, mask = llama.encode_conversation(CHAT)
    with pytest.raises(UserError, match="row 0 of a batch has an empty mask in its conversation 1"):
        audit.check(row(llama, ids, [False] * len(mask)), llama)
    nothing = {key: value[None] for key, value in lay_out([], 8, llama.pad_id).items()}
    with pytest.raises(UserError, match="no tokens at all"):
        audit.check(nothing, llama)
    with pytest.raises(UserError, match="prompt 0 of a batch has an empty mask"):
        audit.check({"tokens": np.zeros((1, 8), np.int32), "mask": np.zeros((1, 8), bool)}, llama)
    batch = rankings(llama, "Yes.", "No.")
    with pytest.raises(UserError, match="an answer to be ranked has an empty mask"):
        audit.check({**batch, "mask": np.zeros_like(batch["mask"])}, llama)
